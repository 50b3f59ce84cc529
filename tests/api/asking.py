"""Short ways to ask the server, and to read what comes back."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx

GENERATOR, HELPER = "smollm2:135m", "smollm2:135m-helper"
# Its answer is beyond doubt for six tokens: no rounding of the model's sums can turn it.
HELLO = [{"role": "user", "content": "Define gravity."}]


def chat_body(**fields: Any) -> dict[str, Any]:
    """A chat of one generated token, not streamed; ``fields`` come on top."""
    few = {"num_predict": 1, "temperature": 0}
    return {"model": GENERATOR, "messages": HELLO, "stream": False, "options": few, **fields}


def generate_body(**fields: Any) -> dict[str, Any]:
    """The same for a single prompt."""
    few = {"num_predict": 1, "temperature": 0}
    return {"model": GENERATOR, "prompt": "Define gravity.", "stream": False, "options": few, **fields}


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/api/chat", json=chat_body(**fields))


def generate(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/api/generate", json=generate_body(**fields))


def settled(ask: Callable[..., httpx.Response], client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """The second answer to the same question, with its prompt in the cache like that of all later ones.

    How much of a prompt is read anew moves the last digits of the model's sums, and a near tie with them.
    """
    answer_of(ask(client, **fields))
    return answer_of(ask(client, **fields))


def error_of(response: httpx.Response, status: int = 400) -> str:
    """The text of a native error, whose form is checked."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"].partition(";")[0] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert body["error"]
    return body["error"]


def answer_of(response: httpx.Response) -> dict[str, Any]:
    """The one object of an answer that is not streamed."""
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"].partition(";")[0] == "application/json"
    body: dict[str, Any] = response.json()
    assert body["done"] is True
    return body


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The objects of a stream, whose framing is checked byte by byte."""
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in response.headers
    assert response.content.endswith(b"\n")
    lines = response.content[:-1].split(b"\n")
    chunks: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for line, chunk in zip(lines, chunks, strict=True):
        assert line.decode() == json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
    assert [chunk["done"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return chunks


def resident(client: httpx.Client, name: str) -> dict[str, Any] | None:
    """A model's item of ``/api/ps``."""
    models: list[dict[str, Any]] = client.get("/api/ps").json()["models"]
    return next((model for model in models if model["name"] == name), None)


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether ``condition`` comes true; machines can be slow."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
