"""``/v1/messages`` and ``/v1/messages/count_tokens`` on a real server."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.anthropic.asking import (
    WEATHER,
    ask,
    count,
    error_of,
    events_of,
    message_body,
    message_of,
    rebuilt,
)
from tests.api.asking import GENERATOR, HELPER, eventually, resident
from tests.running import RunningServer

PATHS = ("/v1/messages", "/v1/messages/count_tokens")


@pytest.fixture
def skilled(skilled_server: RunningServer) -> Iterator[httpx.Client]:
    with skilled_server.client() as connected:
        yield connected


def test_a_message(client: httpx.Client) -> None:
    message = message_of(ask(client, max_tokens=3))
    assert message["model"] == GENERATOR
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)
    assert [block["type"] for block in message["content"]] == ["text"]
    assert message["content"][0]["text"]
    usage = message["usage"]
    assert usage["output_tokens"] == 3
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == 33
    assert message["llm_optimizer"]["strategy"] == "A"


def test_cached_tokens_are_told(client: httpx.Client) -> None:
    # Long enough to be kept even while somebody else is answered.
    messages = [{"role": "user", "content": "This message comes twice. " * 20}]
    first = message_of(ask(client, messages=messages))["usage"]
    again = message_of(ask(client, messages=messages))["usage"]
    assert again["input_tokens"] == 1
    assert again["cache_read_input_tokens"] == sum(first.values()) - first["output_tokens"] - 1


def test_a_stream_tells_the_same_as_a_message(client: httpx.Client) -> None:
    ask(client, max_tokens=4)  # see settled()
    whole = message_of(ask(client, max_tokens=4))
    events = events_of(ask(client, max_tokens=4, stream=True))
    streamed = rebuilt(events)
    for key in ("type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"):
        assert streamed[key] == whole[key]
    assert streamed["id"] != whole["id"]
    assert [event["type"] for event in events[:3]] == ["message_start", "ping", "content_block_start"]
    assert events[0]["message"]["usage"]["input_tokens"] == 33


def test_a_stop_sequence_ends_the_answer_and_is_named(client: httpx.Client) -> None:
    words = message_of(ask(client, max_tokens=6))["content"][0]["text"]
    stop = words.split()[2]
    for streams in (False, True):
        response = ask(client, max_tokens=6, stop_sequences=["never", stop], stream=streams)
        message = rebuilt(events_of(response)) if streams else message_of(response)
        assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", stop)
        assert message["content"][0]["text"] == words[: words.index(stop)]


def test_an_answer_that_ends_by_itself(client: httpx.Client) -> None:
    form = {"type": "json_schema", "schema": {"enum": [5]}}
    message = message_of(ask(client, max_tokens=20, output_config={"format": form}))
    assert json.loads(message["content"][0]["text"]) == 5
    assert message["stop_reason"] == "end_turn"


def test_headers(client: httpx.Client) -> None:
    headers = ask(client).headers
    assert headers["request-id"].startswith("req_")
    assert headers["X-LLM-Optimizer-Strategy"] == "A"
    assert headers["X-LLM-Optimizer-Tokens-Sent"] == "33"
    streamed = ask(client, stream=True, model=HELPER).headers
    assert streamed["X-LLM-Optimizer-Strategy"] == "direct"
    assert streamed["cache-control"] == "no-cache"


CLAUDE_CODE: dict[str, Any] = {
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.37.0d9; cch=fa690;"},
        {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nBe careful.\n</system-reminder>"},
                {"type": "text", "text": "List files.", "cache_control": {"type": "ephemeral"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I list them.", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no", "is_error": True},
                {"type": "text", "text": "<system-reminder>\nGo on.\n</system-reminder>"},
            ],
        },
    ],
    "tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
    "metadata": {"user_id": "user_1"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "high"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "stream": True,
}


def test_a_request_as_claude_code_makes_it(skilled_server: RunningServer, skilled: httpx.Client) -> None:
    before = len(skilled_server.log)
    headers = {
        "authorization": "Bearer x",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "x-stainless-lang": "js",
    }
    body = {**message_body(), **CLAUDE_CODE, "max_tokens": 2}
    message = rebuilt(events_of(skilled.post("/v1/messages?beta=true", json=body, headers=headers)))
    ignored = ["context_management", "tools.web_search", "x-anthropic-billing-header", "thinking"]
    assert message["llm_optimizer"]["ignored"] == ignored
    logged = f"/v1/messages: options ignored: {', '.join(ignored)}"
    assert any(line.endswith(logged) for line in skilled_server.log[before:])
    del body["max_tokens"]
    tokens = skilled.post("/v1/messages/count_tokens?beta=true", json=body, headers=headers).json()
    assert tokens == {"input_tokens": message["llm_optimizer"]["tokens_received"]}


FIELDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "system": {"system": "Be brief."},
    "tools": {"tools": [WEATHER]},
    "tools that must not be called": {"tools": [WEATHER], "tool_choice": {"type": "none"}},
    "history": {"messages": CLAUDE_CODE["messages"]},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS.keys())
def test_the_count_is_the_prompts(skilled: httpx.Client, fields: dict[str, Any]) -> None:
    tokens = count(skilled, **fields)
    assert tokens.status_code == 200, tokens.text
    usage = message_of(ask(skilled, **fields))["usage"]
    assert tokens.json() == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_tool_that_must_be_called_is_called(
    skilled: httpx.Client, choice: dict[str, Any], streams: bool
) -> None:
    response = ask(skilled, max_tokens=60, tools=[WEATHER], tool_choice=choice, stream=streams)
    message = rebuilt(events_of(response)) if streams else message_of(response)
    (call,) = message["content"]
    assert call.pop("id")
    assert call == {"type": "tool_use", "name": "get_weather", "input": {"city": "Paris", "days": 3}}
    assert message["stop_reason"] == "tool_use"


def test_a_call_that_was_cut_off_is_text(skilled: httpx.Client) -> None:
    message = message_of(ask(skilled, max_tokens=5, tools=[WEATHER], tool_choice={"type": "any"}))
    assert (message["stop_reason"], message["content"][0]["type"]) == ("max_tokens", "text")


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}])
def test_thinking_is_a_block_of_its_own(
    skilled: httpx.Client, thinking: dict[str, Any], streams: bool
) -> None:
    response = ask(skilled, model=HELPER, max_tokens=4, thinking=thinking, stream=streams)
    message = rebuilt(events_of(response)) if streams else message_of(response)
    (block,) = message["content"]
    assert (block["type"], block["signature"]) == ("thinking", "")
    assert block["thinking"]


@pytest.mark.parametrize("thinking", [{"type": "disabled"}, None])
def test_a_model_that_can_think_need_not(skilled: httpx.Client, thinking: Any) -> None:
    message = message_of(ask(skilled, model=HELPER, max_tokens=3, thinking=thinking))
    assert [block["type"] for block in message["content"]] == ["text"]


def test_thinking_is_relaxed_where_the_model_cannot(client: httpx.Client) -> None:
    message = message_of(ask(client, thinking={"type": "enabled", "budget_tokens": 1024}))
    assert message["llm_optimizer"]["ignored"] == ["thinking.budget_tokens", "thinking"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fields", [{}, {"thinking": {"type": "adaptive"}}])
def test_an_unknown_model_is_not_found(client: httpx.Client, path: str, fields: dict[str, Any]) -> None:
    response = client.post(path, json=message_body(model="claude-none", **fields))
    assert error_of(response, 404, "not_found_error") == "model 'claude-none' not found"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "missing request body"),
        (b"{", "the request body is not JSON"),
        (b"[]", "the request body must be a JSON object"),
        (b"{}", "model is required"),
        (json.dumps(message_body(messages=[])).encode(), "messages is required"),
        (json.dumps(message_body(model="a b")).encode(), "invalid model name"),
        (json.dumps(message_body(messages=[{"role": "x", "content": ""}])).encode(), "messages.0.role"),
    ],
)
def test_a_bad_body_is_an_invalid_request(client: httpx.Client, path: str, body: bytes, text: str) -> None:
    assert text in error_of(client.post(path, content=body))


@pytest.mark.parametrize("streams", [False, True])
def test_faults_that_only_the_model_shows(client: httpx.Client, streams: bool) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    pictured = [{"role": "user", "content": [image]}]
    assert "does not support image input" in error_of(ask(client, messages=pictured, stream=streams))
    assert "does not support tools" in error_of(ask(client, tools=[WEATHER], stream=streams))
    no_tool = error_of(ask(client, tool_choice={"type": "any"}, stream=streams))
    assert no_tool == "tool_choice asks for a tool call, but the request has no tools"
    long = [{"role": "user", "content": "word " * 9000}]
    # Claude Code shortens its history when it reads these words.
    assert error_of(ask(client, messages=long, model=HELPER, stream=streams)).startswith(
        "prompt is too long: "
    )


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_method_is_405(client: httpx.Client, path: str) -> None:
    assert "not allowed" in error_of(client.get(path), 405, "api_error")


def test_a_foreign_origin_is_told_in_this_dialect(client: httpx.Client) -> None:
    response = client.post("/v1/messages", json={}, headers={"Origin": "http://elsewhere"})
    assert "elsewhere" in error_of(response, 403, "permission_error")


def test_ollamas_options_hold(client: httpx.Client) -> None:
    message = message_of(ask(client, max_tokens=9, options={"num_predict": 2, "mirostat": 1}))
    assert message["usage"]["output_tokens"] == 2
    assert message["llm_optimizer"]["ignored"] == ["mirostat"]


def test_a_client_that_hangs_up_frees_the_slot(server: RunningServer, client: httpx.Client) -> None:
    form = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
    body = message_body(
        max_tokens=4000, stream=True, output_config={"format": {"type": "json_schema", "schema": form}}
    )
    with server.client() as other, other.stream("POST", "/v1/messages", json=body) as response:
        lines = response.iter_lines()
        assert "event: content_block_delta" in lines
        assert eventually(lambda: (resident(client, GENERATOR) or {})["slots"]["running"] == 1)
    assert eventually(lambda: (resident(client, GENERATOR) or {})["slots"]["running"] == 0)


def test_answers_at_the_same_time_keep_apart(client: httpx.Client, server: RunningServer) -> None:
    ids: list[str] = []

    def one() -> None:
        with server.client() as own:
            ids.append(rebuilt(events_of(ask(own, max_tokens=4, stream=True)))["id"])

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 4
