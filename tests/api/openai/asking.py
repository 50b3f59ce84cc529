"""Short ways to ask in OpenAI's dialect, and to read what comes back."""

import json
from typing import Any

import httpx

from tests.api.asking import GENERATOR, HELLO

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look around.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["here", "there"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
FLAT_TOOL: dict[str, Any] = {"type": "function", **TOOL["function"]}
ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"warm": {"type": "boolean"}},
    "required": ["warm"],
    "additionalProperties": False,
}


def chat_body(**fields: Any) -> dict[str, Any]:
    """A chat of one generated token; ``fields`` come on top."""
    return {"model": GENERATOR, "messages": HELLO, "max_tokens": 1, "temperature": 0, **fields}


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json=chat_body(**fields))


def complete(client: httpx.Client, **fields: Any) -> httpx.Response:
    few = {"model": GENERATOR, "prompt": "Define gravity.", "max_tokens": 1, "temperature": 0}
    return client.post("/v1/completions", json={**few, **fields})


def respond(client: httpx.Client, **fields: Any) -> httpx.Response:
    few = {"model": GENERATOR, "input": "Define gravity.", "max_output_tokens": 1, "temperature": 0}
    return client.post("/v1/responses", json={**few, **fields})


def answer_of(response: httpx.Response) -> dict[str, Any]:
    """The one object of an answer that is not streamed."""
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    return body


def error_of(response: httpx.Response, status: int = 400, code: str | None = None) -> str:
    """The text of an error, whose form is checked."""
    kinds = {400: "invalid_request_error", 403: "permission_error", 404: "not_found_error"}
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    text = error.pop("message")
    assert error == {"type": kinds.get(status, "api_error"), "param": None, "code": code}
    assert isinstance(text, str)
    assert text
    return text


def blocks_of(response: httpx.Response) -> list[str]:
    """The events of a stream as text, without comments."""
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert "content-length" not in response.headers
    assert response.text.endswith("\n\n")
    return [block for block in response.text[:-2].split("\n\n") if not block.startswith(":")]


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The objects of a stream of completions, which ends with OpenAI's own last line."""
    *blocks, last = blocks_of(response)
    assert last == "data: [DONE]"
    assert all(block.startswith("data: {") for block in blocks)
    chunks: list[dict[str, Any]] = [json.loads(block.removeprefix("data: ")) for block in blocks]
    assert len({(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in chunks}) == 1
    return chunks


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a streamed response, whose names and numbers are checked."""
    events: list[dict[str, Any]] = []
    for block in blocks_of(response):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events
