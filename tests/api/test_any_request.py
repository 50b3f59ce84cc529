"""Right requests with something wrong in them, on every route: no fault of the server, no hang."""

import copy
import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

from tests.api.asking import GENERATOR
from tests.api.workshop import BIG, EMBED, Workshop
from tests.running import RunningServer

SHORT = {"num_predict": 1, "temperature": 0}
LOOK = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {"model": GENERATOR, "messages": CHAT, "stream": True, "options": SHORT, "format": "json"},
    "/api/generate": {"model": GENERATOR, "prompt": "Hi", "suffix": "", "raw": True, "options": SHORT},
    "/api/show": {"model": GENERATOR, "verbose": False},
    "/api/tokenize": {"model": GENERATOR, "content": "Hello"},
    "/api/detokenize": {"model": GENERATOR, "tokens": [1, 2]},
    "/v1/chat/completions": {
        "model": GENERATOR,
        "messages": CHAT,
        "max_completion_tokens": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}},
        },
    },
    "/v1/completions": {"model": GENERATOR, "prompt": "Hi", "max_tokens": 1, "logprobs": 1, "stop": ["x"]},
    "/v1/responses": {"model": GENERATOR, "input": "Hi", "max_output_tokens": 1, "stream": True},
    "/v1/embeddings": {"model": GENERATOR, "input": "a", "encoding_format": "base64"},
    "/v1/messages": {
        "model": GENERATOR,
        "max_tokens": 1,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": True,
    },
    "/v1/messages/count_tokens": {"model": GENERATOR, "messages": CHAT[1:]},
}
WORKSHOP_BODIES: dict[str, dict[str, Any]] = {
    "/api/create": {
        "model": "mine",
        "from": BIG,
        "system": "Be brief.",
        "parameters": {"stop": ["x"], "temperature": 0.5, "num_ctx": 512},
        "messages": [{"role": "user", "content": "Hi"}],
        "license": ["none"],
        "stream": True,
    },
    "/api/copy": {"source": BIG, "destination": "mine"},
    "/api/delete": {"model": "mine"},
    "/api/pull": {"model": "mine", "stream": True},
    "/api/embed": {"model": EMBED, "input": ["Hello", "there"], "truncate": True, "dimensions": 4},
    "/api/embeddings": {"model": EMBED, "prompt": "Hello", "options": {"num_ctx": 16}},
    "/v1/embeddings": {"model": EMBED, "input": ["Hello"], "dimensions": 4},
}
"""Where models come and go: on the server that has tiny ones of its own."""
LIMITS = {
    **dict.fromkeys(("/api/chat", "/api/generate", "/v1/responses"), "max_output_tokens"),
    "/v1/chat/completions": "max_completion_tokens",
    **dict.fromkeys(("/v1/completions", "/v1/messages"), "max_tokens"),
}
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 10**30, 1e300, "", "x", "\ud800", " " * 3, "a" * 5000, "Infinity"),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"type": "text"},
        {"$ref": "#"},
        ["x"] * 300,
        {"type": ["string", 1]},
    ),
]
METHODS = ("POST", "POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD")
METHODS_OF = {"/api/delete": ("DELETE", "DELETE", "DELETE", "POST", "GET")}
ALLOWED = {200, 201, 204, 400, 403, 404, 405, 413, 501, 503}


class Asked(NamedTuple):
    method: str
    path: str
    content: bytes


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside of ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inside = [place for key, item in items for place in places_in(item, (*path, key))]
    return [path, *inside] if path else inside


def changed(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """``body`` with some values replaced, taken away or added."""
    body = copy.deepcopy(body)
    for _ in range(chance.randint(0, 3)):
        if not body:
            break
        place = chance.choice(places_in(body))
        holder: Any = body
        for key in place[:-1]:
            holder = holder[key]
        match chance.random():
            case part if part < 0.6:
                holder[place[-1]] = copy.deepcopy(chance.choice(STRANGE))
            case part if part < 0.8:
                del holder[place[-1]]
            case _ if isinstance(holder, dict):
                added = chance.choice(["tools", "think", "x", "keep_alive", "images"])
                holder[added] = copy.deepcopy(chance.choice(STRANGE))
    return body


def short(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The same request for one token: there are many."""
    limit = LIMITS.get(path)
    if limit is None:
        return body
    if isinstance(body.get("options"), dict):
        body["options"]["num_predict"] = 1
    wrong = isinstance(body.get(limit), str | list | dict)
    return body if wrong else {**body, limit: 1}


def a_request(chance: random.Random, bodies: dict[str, dict[str, Any]]) -> Asked:
    path = chance.choice(list(bodies))
    content = json.dumps(short(path, changed(bodies[path], chance))).encode()
    if chance.random() < 0.1:
        cut = chance.randrange(len(content) + 1)
        content = content[:cut] + bytes(chance.randrange(256) for _ in range(chance.randint(0, 3)))
    return Asked(chance.choice(METHODS_OF.get(path, METHODS)), path, content)


def fault_of(client: httpx.Client, asked: Asked) -> str | None:
    """What is wrong with the answer, or None."""
    response = client.request(asked.method, asked.path, content=asked.content)
    if response.status_code not in ALLOWED:
        return f"{response.status_code} {response.text[:300]} for {asked}"
    if response.status_code >= 400 and asked.method != "HEAD" and "error" not in response.json():
        return f"no error in {response.text[:300]} for {asked}"
    return None


def check(
    server: RunningServer, client: httpx.Client, requests: int, bodies: dict[str, dict[str, Any]] = BODIES
) -> None:
    before = len(server.log)
    chance = random.Random(requests)  # noqa: S311  # nothing secret
    with ThreadPoolExecutor(8) as pool:
        asked = [a_request(chance, bodies) for _ in range(requests)]
        faults = [fault for fault in pool.map(lambda one: fault_of(client, one), asked) if fault]
    assert faults == []
    assert not [line for line in server.log[before:] if "Traceback" in line or " ERROR " in line]


def test_some_hundred_requests(server: RunningServer, client: httpx.Client) -> None:
    check(server, client, 400)
    # Some of them have changed how long the model stays.
    assert client.post("/api/chat", json={"model": GENERATOR, "keep_alive": -1}).status_code == 200


def test_some_hundred_requests_where_models_come_and_go(bench: Workshop) -> None:
    check(bench.server, bench.client, 200, WORKSHOP_BODIES)
    assert BIG in bench.names()


@pytest.mark.slow
def test_ten_thousand_requests(server: RunningServer, client: httpx.Client) -> None:
    check(server, client, 10_000)
    assert client.post("/api/chat", json={"model": GENERATOR, "keep_alive": -1}).status_code == 200


@pytest.mark.slow
def test_some_thousand_requests_where_models_come_and_go(bench: Workshop) -> None:
    check(bench.server, bench.client, 3_000, WORKSHOP_BODIES)
