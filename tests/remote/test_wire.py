"""What is sent to other servers, and what their lines say."""

import json
from typing import Any

import pytest

from server.domain.chat import (
    CallPart,
    CompletionRequest,
    Message,
    RunOptions,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from server.domain.errors import RemoteFailed
from server.domain.generation import FinishReason, Sampling
from server.remote.assembling import Calls
from server.remote.ollama import Ollama
from server.remote.openai import OpenAi
from server.remote.wire import CallPiece, Chat, Counted

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
AS_SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
}
WITH_CALLS = (
    Message("user", "Weather in Rome and Oslo?"),
    Message(
        "assistant",
        tool_calls=(ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {"city": "Oslo"}, "own")),
    ),
    Message("tool", "sunny", tool_name="weather"),
    Message("tool", "rain", tool_name="weather", tool_call_id="own"),
)


def openai_body(chat: Chat, options: RunOptions = RunOptions()) -> dict[str, Any]:  # noqa: B008
    path, body = OpenAi().chat("far", chat, options)
    assert path == "/chat/completions"
    return body


def test_what_nobody_asked_for_is_left_to_the_other_server() -> None:
    body = openai_body(Chat((Message("user", "Hi"),)))
    assert body == {
        "model": "far",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_was_asked_for_goes_along() -> None:
    options = RunOptions(
        sampling=Sampling(temperature=0.8, top_k=5, seed=7, logit_bias=((3, -1.5),)),
        named=frozenset({"temperature"}),
        max_tokens=9,
        stop=("END",),
    )
    body = openai_body(Chat((Message("user", "Hi"),)), options)
    given = {"temperature": 0.8, "top_k": 5, "seed": 7, "max_tokens": 9, "stop": ["END"]}
    assert given.items() <= body.items()
    assert body["logit_bias"] == {"3": -1.5}
    assert "top_p" not in body


def test_calls_and_their_results_find_each_other() -> None:
    messages = openai_body(Chat(WITH_CALLS))["messages"]
    first, second = messages[1]["tool_calls"]
    assert (first["id"], second["id"]) == ("call_1", "own")
    assert json.loads(first["function"]["arguments"]) == {"city": "Rome"}
    assert [message["tool_call_id"] for message in messages[2:]] == ["call_1", "own"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (RunOptions(format="json"), {"response_format": {"type": "json_object"}}),
        (
            RunOptions(format={"type": "object"}),
            {"response_format": AS_SCHEMA},
        ),
        (
            RunOptions(format={"type": "object"}, must_call=ToolChoice(ToolMode.REQUIRED)),
            {"tool_choice": "required", "response_format": AS_SCHEMA},
        ),
        (
            RunOptions(format={"type": "object"}, must_call=ToolChoice(ToolMode.REQUIRED, "weather")),
            {
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
                "response_format": AS_SCHEMA,
            },
        ),
    ],
)
def test_formats_and_forced_calls(options: RunOptions, expected: dict[str, Any]) -> None:
    body = openai_body(Chat((Message("user", "Hi"),), (WEATHER,)), options)
    assert {key: body.get(key) for key in ("response_format", "tool_choice") if key in body} == expected


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (None, {}),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("high", {"reasoning_effort": "high"}),
    ],
)
def test_thinking(think: bool | str | None, expected: dict[str, Any]) -> None:
    body = openai_body(Chat((Message("user", "Hi"),), think=think))
    assert {key: body[key] for key in ("chat_template_kwargs", "reasoning_effort") if key in body} == expected


def test_ollama_is_asked_for_the_whole_window_and_cuts_nothing() -> None:
    path, body = Ollama(8192).chat("far", Chat(WITH_CALLS, (WEATHER,)), RunOptions(max_tokens=5))
    assert path == "/api/chat"
    assert body["options"] == {"num_ctx": 8192, "num_predict": 5}
    assert body["truncate"] is False
    assert body["messages"][1]["tool_calls"][0] == {
        "function": {"name": "weather", "arguments": {"city": "Rome"}}
    }
    assert body["messages"][2] == {"role": "tool", "content": "sunny", "tool_name": "weather"}


def test_raw_prompts_and_gaps() -> None:
    request = CompletionRequest("far", "def f(", suffix="):", raw=False)
    assert OpenAi().completion("far", request, RunOptions())[1]["suffix"] == "):"
    path, body = Ollama(256).completion("far", CompletionRequest("far", "abc", raw=True), RunOptions())
    assert (path, body["raw"], body["prompt"]) == ("/api/generate", True, "abc")


def test_pieces_of_openai() -> None:
    dialect = OpenAi()
    assert dialect.piece(": keep-alive") is None
    assert dialect.piece("event: message") is None
    assert dialect.piece("") is None
    piece = dialect.piece('data: {"choices": [{"delta": {"content": "a", "reasoning_content": "b"}}]}')
    assert piece is not None
    assert (piece.content, piece.thinking) == ("a", "b")
    piece = dialect.piece('data: {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}')
    assert piece is not None
    assert piece.reason is FinishReason.STOP
    piece = dialect.piece('data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}')
    assert piece is not None
    assert piece.counted == Counted(5, None, 2)
    last = dialect.piece("data: [DONE]")
    assert last is not None
    assert last.last


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('data: {"error": {"message": "out of memory"}}', "out of memory"),
        ('data: {"error": "bad"}', "bad"),
        ("data: <html>", "no JSON object"),
        ("data: [1]", "no JSON object"),
    ],
)
def test_errors_in_the_stream(line: str, words: str) -> None:
    with pytest.raises(RemoteFailed, match=words):
        OpenAi().piece(line)


def test_pieces_of_ollama() -> None:
    dialect = Ollama(256)
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    pieces = [
        dialect.piece(json.dumps({"message": {"content": "", "tool_calls": [call]}, "done": False}))
        for _ in range(2)
    ]
    assert [piece.calls[0].index for piece in pieces if piece] == [0, 1]
    end = dialect.piece(
        '{"message": {}, "done": true, "done_reason": "length", "prompt_eval_count": 7, "eval_count": 3}'
    )
    assert end is not None
    assert (end.reason, end.counted, end.last) == (FinishReason.LENGTH, Counted(7, None, 3), True)
    with pytest.raises(RemoteFailed, match="no such model"):
        dialect.piece('{"error": "no such model"}')


def test_a_call_in_pieces() -> None:
    calls, deltas = Calls(), []
    for piece in (
        CallPiece(0, "a", "weather"),
        CallPiece(0, arguments='{"city":'),
        CallPiece(0, arguments='"Rome"}'),
        CallPiece(1, "b", "time", "{}"),
    ):
        deltas += calls.feed((piece,))
    deltas += calls.finish(cut=False)
    assert [call for delta in deltas for call in delta.tool_calls] == [
        ToolCall("weather", {"city": "Rome"}, "a"),
        ToolCall("time", {}, "b"),
    ]
    parts = [part for delta in deltas for part in delta.call_parts]
    assert parts[0] == CallPart(0, "", "a", "weather")
    assert "".join(part.arguments for part in parts if part.index == 0) == '{"city":"Rome"}'


@pytest.mark.parametrize("arguments", ['{"city":', "[1]", "Rome"])
def test_arguments_that_are_none(arguments: str) -> None:
    calls = Calls()
    assert list(calls.feed((CallPiece(0, "a", "weather", arguments),)))
    with pytest.raises(RemoteFailed, match="weather"):
        list(calls.finish(cut=False))


def test_half_a_call_at_the_limit_is_dropped() -> None:
    calls = Calls()
    list(calls.feed((CallPiece(0, "a", "weather", '{"city":'),)))
    assert list(calls.finish(cut=True)) == []


def test_a_call_without_a_name() -> None:
    with pytest.raises(RemoteFailed, match="without the name"):
        list(Calls().feed((CallPiece(0, arguments="{}"),)))
