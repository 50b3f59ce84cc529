"""Short ways to ask in Anthropic's dialect, and to read what comes back as strictly as it may be read."""

import copy
import json
import re
from collections.abc import Sequence
from typing import Any

import httpx

from tests.api.asking import GENERATOR, HELLO

MESSAGE_ID = re.compile("msg_[0-9a-f]{24}")
MESSAGE_KEYS = {
    *("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage", "llm_optimizer")
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris"]}, "days": {"enum": [3]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}


def message_body(**fields: Any) -> dict[str, Any]:
    """A message of one generated token; ``fields`` come on top."""
    return {"model": GENERATOR, "max_tokens": 1, "temperature": 0, "messages": HELLO, **fields}


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/messages", json=message_body(**fields))


def count(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/messages/count_tokens", json={"model": GENERATOR, "messages": HELLO, **fields})


def error_of(response: httpx.Response, status: int = 400, kind: str = "invalid_request_error") -> str:
    """The text of an error, whose form is checked."""
    assert response.status_code == status, response.text[:500]
    body = response.json()
    assert body["type"] == "error"
    assert set(body) == {"type", "error", "request_id"}
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["type"] == kind
    assert body["request_id"] == response.headers["request-id"]
    assert isinstance(body["error"]["message"], str)
    return body["error"]["message"]


def message_of(response: httpx.Response) -> dict[str, Any]:
    """The one message of an answer that is not streamed."""
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"] == "application/json"
    message: dict[str, Any] = response.json()
    assert set(message) == MESSAGE_KEYS
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert MESSAGE_ID.fullmatch(message["id"])
    return message


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, whose framing is checked byte by byte."""
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert "content-length" not in response.headers
    assert response.content.endswith(b"\n\n")
    events = []
    for piece in response.content[:-2].split(b"\n\n"):
        name, _, data = piece.partition(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        assert data == b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        events.append(event)
    return events


def rebuilt(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream's events tell, where each must come in its place."""
    start, *between, end = [event for event in events if event["type"] != "ping"]
    assert start["type"] == "message_start"
    assert end == {"type": "message_stop"}
    message: dict[str, Any] = copy.deepcopy(start["message"])
    assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], None, None)
    open_index, arguments = None, ""
    for event in between:
        index = event.get("index")
        match event["type"]:
            case "content_block_start":
                assert open_index is None
                assert index == len(message["content"])
                open_index, arguments = index, ""
                message["content"].append(copy.deepcopy(event["content_block"]))
            case "content_block_delta":
                assert index == open_index is not None
                arguments += _grow(message["content"][-1], event["delta"])
            case "content_block_stop":
                assert index == open_index is not None
                open_index = None
                if message["content"][-1]["type"] == "tool_use":
                    assert message["content"][-1]["input"] == {}
                    message["content"][-1]["input"] = json.loads(arguments)
            case "message_delta":
                assert open_index is None
                message |= {
                    **event["delta"],
                    "usage": event["usage"],
                    "llm_optimizer": event["llm_optimizer"],
                }
            case kind:
                raise AssertionError(kind)
    assert between[-1]["type"] == "message_delta"
    return message


def _grow(block: dict[str, Any], delta: dict[str, Any]) -> str:
    """Adds words to a block; returns what it adds to a call's arguments."""
    if block["type"] == "tool_use":
        assert set(delta) == {"type", "partial_json"}
        assert delta["type"] == "input_json_delta"
        assert isinstance(delta["partial_json"], str)
        return delta["partial_json"]
    kind = block["type"]
    assert set(delta) == {"type", kind}
    assert delta["type"] == f"{kind}_delta"
    assert delta[kind]
    block[kind] += delta[kind]
    return ""
