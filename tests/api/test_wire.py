"""What goes over the wire, without HTTP."""

import json
from typing import Any

import pytest

from server.api.bodies import encoded, parse
from server.api.ollama.wire import (
    ChatBody,
    GenerateBody,
    NamedBody,
    chat_chunk,
    closing,
    generate_chunk,
)
from server.domain.chat import AnswerDelta, ToolCall
from server.domain.errors import InvalidRequest
from server.domain.generation import FinishReason, Usage
from server.service.report import Outcome, Routing

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def test_an_object_is_one_line_for_every_reader() -> None:
    text = encoded({"a": f"x{LINE_ENDS}y é🦊"}).decode()
    assert len(text.splitlines()) == 1
    assert json.loads(text) == {"a": f"x{LINE_ENDS}y é🦊"}
    assert "é🦊" in text


def test_half_a_character_from_a_model_is_written_as_something() -> None:
    assert json.loads(encoded({"a": "\ud800"})) == {"a": "?"}


def test_tool_calls_are_objects_with_rising_numbers() -> None:
    delta = AnswerDelta(tool_calls=(ToolCall("f", {"b": 1, "a": [2]}, "call_1"), ToolCall("g", {})))
    message = chat_chunk("m", delta, 3)["message"]
    assert message["content"] == ""
    assert message["tool_calls"] == [
        {"id": "call_1", "function": {"index": 3, "name": "f", "arguments": {"b": 1, "a": [2]}}},
        {"function": {"index": 4, "name": "g", "arguments": {}}},
    ]
    assert list(message["tool_calls"][0]["function"]["arguments"]) == ["b", "a"]


def test_thinking_is_there_only_when_there_is_some() -> None:
    assert chat_chunk("m", AnswerDelta(thinking="hm"))["message"]["thinking"] == "hm"
    assert generate_chunk("m", AnswerDelta(thinking="hm"))["thinking"] == "hm"
    assert "thinking" not in generate_chunk("m", AnswerDelta("x"))


def outcome(usage: Usage, **routing: Any) -> Outcome:
    told = Routing(None, None, "why", 7, 5, **routing)
    return Outcome(FinishReason.STOP, usage, told, 11, 13, 99, (), (1,), (2,))


def test_figures_that_are_zero_are_left_out() -> None:
    last = closing(outcome(Usage(prefill_ns=3)))
    assert last.pop("llm_optimizer")["context_tokens"] == 99
    assert last == {
        "done": True,
        "done_reason": "stop",
        "total_duration": 13,
        "load_duration": 11,
        "prompt_eval_count": 7,
        "prompt_eval_duration": 3,
    }


def test_a_fallback_is_told() -> None:
    assert closing(outcome(Usage(), fallback="too slow"))["llm_optimizer"]["fallback"] == "too slow"


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (ChatBody, {"model": None, "stream": "x"}, 'stream must be true or false, but it is "x"'),
        (ChatBody, {"messages": [{"images": [5]}]}, "messages.0.images.0 must be a string, but it is 5"),
        (GenerateBody, {"options": None, "context": [1.5]}, "context.0 must be an integer, but it is 1.5"),
        (NamedBody, {"model": {"a": "é" * 99}}, 'model must be a string, but it is {"a": "' + "é" * 73 + "…"),
    ],
)
def test_a_fault_is_told_in_the_words_of_json(kind: Any, body: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(kind, body)
    assert str(raised.value) == text


def test_a_tools_result_gets_the_name_of_its_call() -> None:
    messages = [
        {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {}}}]},
        {"role": "TOOL", "content": "5", "tool_call_id": "c1"},
        {"role": "tool", "content": "6", "tool_call_id": "c1", "tool_name": "own"},
        {"role": "tool", "content": "7", "tool_call_id": "c2"},
    ]
    request = parse(ChatBody, {"model": "m", "messages": messages}).to_domain()
    assert [message.tool_name for message in request.messages] == [None, "look", "own", None]


def test_results_without_ids_are_those_of_the_calls_in_their_order() -> None:
    def calls(*names: str) -> dict[str, Any]:
        return {"role": "assistant", "tool_calls": [{"function": {"name": name}} for name in names]}

    result = {"role": "tool", "content": "5"}
    messages = [calls("a", "b"), result, result, result, calls("c"), result, {"role": "user", "content": "?"}]
    request = parse(ChatBody, {"model": "m", "messages": messages}).to_domain()
    assert [message.tool_name for message in request.messages] == [None, "a", "b", None, None, "c", None]
