"""Tools of chat completions: whether they are called is what ``tool_choice`` says."""

import json
from typing import Any

import httpx
import pytest

from server.api.openai.chat_wire import StreamedCalls, whole_calls
from server.domain.chat import AnswerDelta, CallPart, ToolCall
from tests.api.asking import GENERATOR
from tests.api.openai.asking import TOOL, answer_of, chat, chunks_of, error_of

OTHER: dict[str, Any] = {"type": "function", "function": {"name": "wait"}}
NAMED = {"type": "function", "function": {"name": "wait"}}


def calls_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["choices"][0]["message"]["content"] is None
    calls: list[dict[str, Any]] = answer["choices"][0]["message"]["tool_calls"]
    return calls


def test_a_call_that_is_required_is_made(skilled: httpx.Client) -> None:
    [call] = calls_of(answer_of(chat(skilled, tools=[TOOL], tool_choice="required", max_tokens=40)))
    assert call["id"].startswith("call_")
    assert (call["index"], call["type"], call["function"]["name"]) == (0, "function", "look")
    assert isinstance(call["function"]["arguments"], str)
    assert json.loads(call["function"]["arguments"])["place"] in ("here", "there")


def test_the_tool_that_is_named_is_called(skilled: httpx.Client) -> None:
    [call] = calls_of(answer_of(chat(skilled, tools=[TOOL, OTHER], tool_choice=NAMED, max_tokens=40)))
    assert call["function"]["name"] == "wait"


def test_a_call_is_streamed(skilled: httpx.Client) -> None:
    chunks = chunks_of(chat(skilled, tools=[TOOL], tool_choice="required", max_tokens=40, stream=True))
    pieces = [piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert pieces[0]["function"]["name"] == "look"
    assert pieces[0]["id"]
    assert {piece["index"] for piece in pieces} == {0}
    assert json.loads("".join(piece["function"]["arguments"] for piece in pieces))["place"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any(chunk["choices"][0]["delta"].get("content") for chunk in chunks)


def test_tools_that_must_not_be_called_are_not_shown(skilled: httpx.Client) -> None:
    def prompt_tokens(**fields: Any) -> int:
        tokens: int = answer_of(chat(skilled, **fields))["usage"]["prompt_tokens"]
        return tokens

    without = prompt_tokens()
    assert prompt_tokens(tools=[TOOL], tool_choice="none") == without
    assert prompt_tokens(tools=[TOOL], tool_choice="auto") > without
    assert prompt_tokens(tools=[TOOL]) == prompt_tokens(tools=[TOOL], tool_choice="auto")


def test_keys_that_are_not_for_the_model_are_not_shown(skilled: httpx.Client) -> None:
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}, "x": 1}
    plain = answer_of(chat(skilled, tools=[TOOL]))["usage"]["prompt_tokens"]
    assert answer_of(chat(skilled, tools=[strict]))["usage"]["prompt_tokens"] == plain


def test_results_of_tools_find_their_calls(skilled: httpx.Client) -> None:
    call = {
        "id": "call_7",
        "type": "function",
        "function": {"name": "look", "arguments": '{"place": "here"}'},
    }
    messages = [
        {"role": "user", "content": "Look here."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "A cat.", "tool_call_id": "call_7"},
    ]
    assert answer_of(chat(skilled, messages=messages, tools=[TOOL]))["choices"]


CHOICES: dict[str, tuple[dict[str, Any], str]] = {
    "no tools": (
        {"tool_choice": "required"},
        "tool_choice asks for a tool call, but the request has no tools",
    ),
    "another tool": ({"tools": [TOOL], "tool_choice": NAMED}, 'tool_choice names "wait", which is none of'),
    "a word": ({"tool_choice": "any"}, 'tool_choice must be "none", "auto", "required" or a function'),
    "no name": ({"tool_choice": {"type": "function"}}, "tool_choice must be"),
    "a number": ({"tool_choice": 5}, "tool_choice must be"),
    "another type": ({"tools": [{"type": "custom", "custom": {}}]}, 'tools.0 is a tool of the type "custom"'),
    "no function": ({"tools": [{"type": "function"}]}, "tools.0 is a tool of the type"),
    "a tool without a name": ({"tools": [{"function": {}}]}, "tools.0.function.name is missing"),
    "parameters": ({"tools": [{"function": {"name": "f", "parameters": 5}}]}, "parameters must be an object"),
    "a list in the place of a tool": ({"tools": [[]]}, "tools.0 must be an object"),
}


@pytest.mark.parametrize(("fields", "words"), CHOICES.values(), ids=CHOICES.keys())
def test_tools_and_choices_of_a_wrong_shape_are_errors(
    skilled: httpx.Client, fields: dict[str, Any], words: str
) -> None:
    assert words in error_of(chat(skilled, **fields))


def test_tools_need_a_template_that_knows_them(client: httpx.Client) -> None:
    text = f"registry.ollama.ai/library/{GENERATOR} does not support tools"
    assert error_of(chat(client, tools=[TOOL])) == text
    answer_of(chat(client, tools=[TOOL], tool_choice="none"))


LOOK = ToolCall("look", {"place": "here"}, "call_1")
WAIT = ToolCall("wait", {}, "call_2")
PARTS = (CallPart(0, "", "call_1", "look"), CallPart(0, '{"place":'), CallPart(0, '"here"}'))


def whole_piece(call: ToolCall, index: int) -> dict[str, Any]:
    arguments = json.dumps(dict(call.arguments), separators=(",", ":"))
    function = {"name": call.name, "arguments": arguments}
    return {"index": index, "id": call.id, "type": "function", "function": function}


def test_a_call_that_came_in_parts_does_not_come_again() -> None:
    calls = StreamedCalls()
    first, *others = [calls.pieces(AnswerDelta(call_parts=(part,)))[0] for part in PARTS]
    assert first == {**whole_piece(LOOK, 0), "function": {"name": "look", "arguments": ""}}
    assert others == [
        {"index": 0, "function": {"arguments": '{"place":'}},
        {"index": 0, "function": {"arguments": '"here"}'}},
    ]
    assert calls.pieces(AnswerDelta(tool_calls=(LOOK,))) == []
    assert calls.pieces(AnswerDelta(tool_calls=(WAIT,))) == [whole_piece(WAIT, 1)]
    assert calls.begun == 2


def test_calls_that_come_whole_are_numbered() -> None:
    calls = StreamedCalls()
    assert calls.pieces(AnswerDelta(tool_calls=(LOOK, WAIT))) == [whole_piece(LOOK, 0), whole_piece(WAIT, 1)]
    assert calls.pieces(AnswerDelta(tool_calls=(LOOK,))) == [whole_piece(LOOK, 2)]


def test_a_call_that_was_cut_off_is_told_as_far_as_it_came() -> None:
    cut = (CallPart(1, '{"pl', "call_2", "wait"), CallPart(1, "ace"))
    assert whole_calls(AnswerDelta(tool_calls=(LOOK,), call_parts=(*PARTS, *cut))) == [
        whole_piece(LOOK, 0),
        {**whole_piece(WAIT, 1), "function": {"name": "wait", "arguments": '{"place'}},
    ]
