"""Bodies made to break, stop or fill the server: each gets its 4xx, and nobody else waits for it."""

import json
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import zstandard

from server.api.jsontext import MOST_CONTAINERS, parsed_json
from server.api.packed import unpacked
from server.domain.errors import BodyTooLarge, InvalidRequest
from tests.api.asking import GENERATOR, chat_body
from tests.hostile.asking import watched
from tests.running import RunningServer

MIB = 2**20
DIRECT = {"X-LLM-Optimizer-Policy": "direct"}
"""Otherwise the helper would read it all first, which is its work."""
ROUTES = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/embed")

HELLO = b'"model": "smollm2:135m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]'
BROKEN = {
    "nested": b'{"a":' + b"[" * 5_000_000,
    "objects": b'{"a":' * 1_000_000,
    "1e999 nested": b'{"model": [' + b"1e999," * 200_000 + b"1]}",
    "lists": b'{"a": [' + b"[]," * 300_000 + b"[]]}",
    "messages": b'{"model": "smollm2:135m", "messages": [' + b'{"role": "user"},' * 50_000 + b"{}]}",
    "keys": b'{"model": 5' + b"".join(b',"k%d":0' % number for number in range(100_000)) + b"}",
    "digits": b'{"model": ' + b"1" * 8_000_000 + b"}",
    "open string": b'{"model": "' + b"x" * 10_000_000,
    "bad UTF-8": b'{"model": "' + b"x" * 10_000_000 + b"\xff",
    "zeros": bytes(10_000_000),
    "commas": b"{" + b"," * 10_000_000,
    "halves": b'{"model": 5, "a": "' + rb"\ud800a" * 1_000_000 + b'"}',
}
"""None of these is a request on any route."""


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_body_is_refused_while_others_are_served(server: RunningServer, body: bytes) -> None:
    with watched(server) as pulse, server.client() as client:
        response = client.post("/api/chat", content=body)
    assert 400 <= response.status_code < 500, response.text[:200]
    assert len(response.content) < 2000
    # A machine that tests something else meanwhile may take its time; each of these took seconds once.
    assert pulse.longest_s < 1.5


@pytest.mark.parametrize("path", ROUTES)
def test_on_every_route(client: httpx.Client, path: str) -> None:
    for body in (
        b'{"a":' + b"[" * 100_000,
        b'{"a":[' + b"{}," * 21_000 + b"{}]}",
        b'{"model": "' + b"\xff" * 9,
    ):
        response = client.post(path, content=body)
        assert 400 <= response.status_code < 500, response.text[:200]


@pytest.mark.parametrize("key", [b"model", b"messages", b"Model", b"options"])
def test_a_key_that_comes_twice_is_read_once(client: httpx.Client, key: bytes) -> None:
    """As in Go and JavaScript the last one counts, and never both."""
    body = b'{"' + key + b'": 5, ' + HELLO + b', "stream": false, "options": {"num_predict": 1}}'
    assert client.post("/api/chat", content=body).status_code in {200, 400}


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "1e-999", "9" * 400, "-" + "9" * 400, "1" + "0" * 4000]
)
@pytest.mark.parametrize("field", ["temperature", "seed", "num_ctx"])
def test_numbers_without_end(client: httpx.Client, number: str, field: str) -> None:
    body = json.dumps(chat_body(options={"num_predict": 1, field: "NUMBER"}))
    response = client.post("/api/chat", content=body.replace('"NUMBER"', number).encode())
    assert response.status_code in {200, 400}, response.text[:200]


LARGE: dict[str, Callable[[str], dict[str, Any]]] = {
    "content": lambda text: {"messages": [{"role": "user", "content": text[:300_000]}]},
    "role": lambda text: {"messages": [{"role": text[:300_000], "content": "Hi"}]},
    "model": lambda text: {"model": text},
    "tool": lambda text: {"tools": [{"type": "function", "function": {"name": text, "description": text}}]},
    "stop": lambda text: {"options": {"stop": [text], "num_predict": 1}},
    "format": lambda text: {"format": text},
    "keep_alive": lambda text: {"keep_alive": text},
    "think": lambda text: {"think": text},
    "unknown": lambda text: {text: text},
}


@pytest.mark.parametrize("field", LARGE)
def test_ten_megabytes_in_a_field(server: RunningServer, client: httpx.Client, field: str) -> None:
    body = chat_body(**LARGE[field]("x" * 10_000_000))
    with watched(server) as pulse:
        response = client.post("/api/chat", json=body, headers=DIRECT)
    assert response.status_code in {200, 400, 404}, response.text[:200]
    assert len(response.content) < 20_000, "an error does not repeat ten megabytes"
    assert pulse.longest_s < 1.5


@pytest.mark.parametrize("count", [2000, pytest.param(MOST_CONTAINERS - 10, marks=pytest.mark.slow)])
def test_very_many_messages(server: RunningServer, client: httpx.Client, count: int) -> None:
    messages = [{"role": "user", "content": "five words in each one"}] * count
    with watched(server) as pulse:
        body = chat_body(messages=messages, truncate=False)
        response = client.post("/api/chat", json=body, headers=DIRECT)
    assert response.status_code == 400
    assert pulse.longest_s < 1.5


def test_a_session_of_an_agent_is_far_from_the_limit() -> None:
    call = {"id": "a", "type": "tool_use", "name": "read", "input": {"path": "x"}}
    turn = [
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, call]},
        {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "x"}]}]},
    ]
    assert parsed_json(json.dumps({"messages": turn * 1000}).encode())
    with pytest.raises(InvalidRequest, match=str(MOST_CONTAINERS)):
        parsed_json(json.dumps({"messages": turn * 4000}).encode())


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "deflate"])
def test_a_bomb_is_refused_while_others_are_served(
    server: RunningServer, client: httpx.Client, encoding: str
) -> None:
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(200)) + packer.flush()
    bomb = zstandard.compress(bytes(200 * MIB)) if encoding == "zstd" else packed
    assert len(bomb) < MIB
    before = server.resident_bytes()
    with watched(server) as pulse:
        response = client.post("/api/chat", content=bomb, headers={"Content-Encoding": encoding})
    assert response.status_code == 413
    assert pulse.longest_s < 1.5
    assert server.resident_bytes() - before < 150 * MIB


def test_a_bomb_in_a_bomb_is_refused() -> None:
    layers = zlib.compress(bytes(MIB))
    for _ in range(10):
        layers = zlib.compress(layers, 0)
    with pytest.raises(InvalidRequest, match="11 encodings"):
        unpacked(layers, ", ".join(["deflate"] * 11), MIB)


def test_a_frame_that_wants_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = packer.compress(b"x") + packer.flush()
    with pytest.raises(InvalidRequest):
        unpacked(frame, "zstd", MIB)
    with pytest.raises(BodyTooLarge):
        unpacked(zstandard.compress(bytes(2 * MIB)), "zstd", MIB)


def test_a_body_without_an_end_is_heard_out_and_refused(client: httpx.Client) -> None:
    pieces = iter([b'{"model": "' + b"x" * MIB, *([b"x" * MIB] * 40), b'"}'])
    response = client.post("/api/chat", content=pieces)
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


@pytest.mark.slow
def test_hostile_bodies_all_at_once(server: RunningServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def send(body: bytes) -> int:
        with server.client() as client:
            return client.post("/api/chat", content=body).status_code

    with watched(server) as pulse, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, list(BROKEN.values()) * 3))
    assert all(400 <= status < 500 for status in statuses)
    assert pulse.longest_s < 5
    assert GENERATOR in json.dumps(httpx.get(f"{server.url}/api/ps").json())
