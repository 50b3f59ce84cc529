"""What holds for every route: bodies, methods, errors, framing, hang-ups."""

import json
import re
import socket
import threading
import time
from typing import Any

import httpx
import pytest

from tests.api.asking import (
    GENERATOR,
    HELLO,
    answer_of,
    chat,
    chat_body,
    chunks_of,
    error_of,
    eventually,
    generate,
    generate_body,
    resident,
)
from tests.running import RunningServer

POSTS = ("/api/chat", "/api/generate", "/api/show")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


@pytest.mark.parametrize(
    "content_type", [None, "", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "x"]
)
def test_a_body_is_json_whatever_its_content_type(client: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = client.post("/api/show", content=json.dumps({"model": GENERATOR}).encode(), headers=headers)
    assert response.status_code == 200


def test_only_the_first_json_value_is_read(client: httpx.Client) -> None:
    body = json.dumps({"model": GENERATOR}).encode()
    assert client.post("/api/show", content=b"\xef\xbb\xbf\n " + body + b' {"model": 5} }').status_code == 200


def test_a_chunked_body_is_read_whole(client: httpx.Client) -> None:
    pieces = iter([b'{"model": ', b'"smollm2', b':135m"}'])
    assert client.post("/api/show", content=pieces).status_code == 200


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", [b"", b"  \r\n"])
def test_an_empty_body_is_missing(client: httpx.Client, path: str, body: bytes) -> None:
    assert error_of(client.post(path, content=body)) == "missing request body"


NO_JSON = {
    "open brace": b'{"model": "x"',
    "no value": b"{model}",
    "array": b"[]",
    "number": b"5",
    "string": b'"x"',
    "null": b"null",
    "not a number": b'{"model": NaN}',
    "infinity": b'{"options": {"temperature": -Infinity}}',
    "invalid UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "a bad escape": rb'{"model": "\x41"}',
    "zero bytes": b"\x00" * 50,
    "5000 digits": b'{"model": ' + b"9" * 5000 + b"}",
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "201 levels": b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON.keys())
def test_what_is_no_json_object_is_an_error(client: httpx.Client, path: str, body: bytes) -> None:
    error_of(client.post(path, content=body))


def test_deep_but_honest_json_passes(client: httpx.Client) -> None:
    body = b'{"model": "smollm2:135m", "unknown": ' + b"[" * 190 + b"]" * 190 + b"}"
    assert client.post("/api/show", content=body).status_code == 200


WRONG_TYPES = {
    "/api/chat": {
        "model": 5,
        "messages": "x",
        "tools": {},
        "options": [],
        "stream": "yes",
        "think": 5,
        "keep_alive": True,
        "format": 5,
        "truncate": 1,
        "logprobs": "x",
        "top_logprobs": 1.5,
        "temperature": "hot",
        "max_output_tokens": "many",
        "top_p": [],
    },
    "/api/generate": {
        "prompt": 5,
        "suffix": [],
        "system": {},
        "template": 5,
        "raw": "yes",
        "context": "x",
        "images": "x",
        "stream": 1,
        "shift": "no",
    },
    "/api/show": {"model": 5, "name": [], "verbose": "yes"},
}


@pytest.mark.parametrize(
    ("path", "field"), [(path, field) for path, fields in WRONG_TYPES.items() for field in fields]
)
def test_a_wrong_type_is_an_error_that_names_the_field(client: httpx.Client, path: str, field: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/api/chat": chat_body(options={}),
        "/api/generate": generate_body(),
        "/api/show": {"model": GENERATOR},
    }
    body = {**bodies[path], field: WRONG_TYPES[path][field]}  # type: ignore[index]
    text = error_of(client.post(path, json=body))
    # These speak in Ollama's words, which do not always repeat the field.
    own_words = {"keep_alive": "Unsupported type: 'bool'", "max_output_tokens": "num_predict"}
    assert own_words.get(field, field) in text


def test_null_counts_as_absent(client: httpx.Client) -> None:
    nothing = dict.fromkeys(
        ("tools", "think", "keep_alive", "format", "truncate", "shift", "logprobs", "top_logprobs", "top_p")
    )
    message = {"role": "user", "content": "Hi", "images": None, "tool_calls": None, "thinking": None}
    answer_of(chat(client, messages=[message], **nothing))
    assert chunks_of(
        generate(client, stream=None, **dict.fromkeys(("system", "suffix", "context", "images")))
    )


def test_unknown_keys_are_ignored_at_every_level(client: httpx.Client) -> None:
    call = {"id": "a", "type": "function", "x": 1, "function": {"name": "f", "arguments": {}, "x": 1}}
    messages = [
        {"role": "user", "content": "Hi", "x": {"y": []}},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "5", "tool_name": "f", "tool_call_id": "a", "x": 1},
    ]
    answer_of(chat(client, messages=messages, x={"y": 1}, tool_choice="auto"))
    assert client.post("/api/show", json={"model": GENERATOR, "x": 1}).status_code == 200


@pytest.mark.parametrize(
    "lone",
    [
        {"think": "\ud800"},
        {"format": "\udfff"},
        {"keep_alive": "\ud800"},
        {"model": "\ud800"},
        {"prompt": "\ud800 \udc00\ud800"},
        {"images": ["\ud800"]},
        {"options": {"stop": ["\ud800"], "num_predict": 1}},
        {"options": {"\ud800": 1, "num_predict": 1}},
        {"stream": True, "options": {"\ud800": 1, "num_predict": 1}},
        {"format": {"enum": ["\ud800"]}},
        {"format": {"type": "string", "pattern": "^\ud800$"}},
    ],
    ids=ascii,
)
def test_lone_surrogates_do_no_harm(client: httpx.Client, lone: dict[str, Any]) -> None:
    body = json.dumps(generate_body(**lone)).encode()
    assert client.post("/api/generate", content=body).status_code in {200, 400}


@pytest.mark.parametrize(
    "body", [{"junk": "x" * 6_000_000}, {"junk": list(range(500_000))}], ids=["text", "list"]
)
def test_a_body_of_megabytes_is_no_error(client: httpx.Client, body: dict[str, Any]) -> None:
    answer_of(chat(client, **body))


def test_a_prompt_of_megabytes_is_too_long(client: httpx.Client) -> None:
    assert "prompt is too long" in error_of(generate(client, prompt="a " * 1_000_000))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("POST", "/api/version"),
        ("DELETE", "/api/tags"),
        ("POST", "/api/ps"),
        ("GET", "/api/chat"),
        ("PUT", "/api/chat"),
        ("GET", "/api/generate"),
        ("GET", "/api/show"),
    ],
)
def test_a_wrong_method_is_405(client: httpx.Client, method: str, path: str) -> None:
    assert "not allowed" in error_of(client.request(method, path), 405)


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/nothing", "/api/chat/x", "/api/%ff%00", "//[x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_404(client: httpx.Client, method: str, path: str) -> None:
    assert "not found" in error_of(client.request(method, f"{client.base_url}{path}"), 404)


def test_credentials_are_accepted_and_ignored(client: httpx.Client) -> None:
    headers = {"Authorization": "Bearer x", "x-api-key": "y", "anthropic-version": "2023-06-01"}
    assert client.get("/api/tags", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
def test_head_is_answered_without_a_body(client: httpx.Client, path: str) -> None:
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_the_root_says_that_ollama_is_running(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.text == "Ollama is running"
    assert response.headers["content-type"].startswith("text/plain")


def test_the_version_is_recent_enough_for_every_client(client: httpx.Client) -> None:
    version = client.get("/api/version").json()
    assert list(version) == ["version"]
    assert tuple(map(int, version["version"].split("."))) >= (0, 14, 0)


def test_a_trailing_slash_leads_to_the_route(client: httpx.Client) -> None:
    assert client.get("/api/tags/", follow_redirects=True).status_code == 200


def test_times_are_rfc3339_and_created_at_is_utc(client: httpx.Client) -> None:
    created = answer_of(chat(client))["created_at"]
    assert RFC3339.fullmatch(created)
    assert created.endswith("Z")
    for model in client.get("/api/tags").json()["models"]:
        assert RFC3339.fullmatch(model["modified_at"])
    item = resident(client, GENERATOR)
    assert item is not None
    assert RFC3339.fullmatch(item["expires_at"])


def raw_request(server: RunningServer, request: bytes) -> bytes:
    """The status line of the answer to ``request``; empty if the server just hangs up."""
    host, port = httpx.URL(server.url).host, httpx.URL(server.url).port
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(request)
        return connection.recv(65536).partition(b"\r\n")[0]


@pytest.mark.parametrize("host", [b"[", b"[::1", b"", b"a b", b"\xff", b"x:99999999"])
def test_a_strange_host_header_does_no_harm(server: RunningServer, host: bytes) -> None:
    request = b"GET /nothing HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
    assert raw_request(server, request).split()[1] in {b"404", b"400", b"403"}


def test_a_client_that_hangs_up_within_its_body_does_no_harm(server: RunningServer) -> None:
    address = (httpx.URL(server.url).host, httpx.URL(server.url).port)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(b'POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"model":')
    time.sleep(0.2)


ENDLESS: dict[str, Any] = {
    "format": {"type": "array", "items": {"type": "integer"}, "minItems": 1000},
    "options": {"num_predict": 4000},
}


def long_answer(server: RunningServer, seen: threading.Event, stop: threading.Event) -> None:
    body = chat_body(stream=True, **ENDLESS)
    with server.client() as client, client.stream("POST", "/api/chat", json=body) as response:
        for _ in response.iter_lines():
            seen.set()
            if stop.is_set():
                return


def test_cheap_routes_answer_and_a_hang_up_frees_the_slot(
    server: RunningServer, client: httpx.Client
) -> None:
    seen, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=long_answer, args=(server, seen, stop))
    thread.start()
    try:
        assert seen.wait(120)
        assert eventually(lambda: (resident(client, GENERATOR) or {})["slots"]["running"] == 1)
        for path in ("/", "/api/version", "/api/tags", "/api/ps"):
            began = time.monotonic()
            assert client.get(path).status_code == 200
            assert time.monotonic() - began < 5
    finally:
        stop.set()
        thread.join()
    assert eventually(lambda: (resident(client, GENERATOR) or {})["slots"]["running"] == 0)


def test_a_hang_up_of_one_who_does_not_stream_frees_the_slot(
    server: RunningServer, client: httpx.Client
) -> None:
    with httpx.Client(base_url=server.url, timeout=1) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post("/api/chat", json=chat_body(**ENDLESS))
    assert eventually(lambda: (resident(client, GENERATOR) or {})["slots"]["running"] == 0)


@pytest.mark.parametrize("ask", [chat, generate])
def test_a_stream_is_compact_lines_with_one_end(client: httpx.Client, ask: Any) -> None:
    chunks = chunks_of(ask(client, stream=True, options={"num_predict": 5, "temperature": 0}))
    assert len(chunks) > 1
    assert {chunk["model"] for chunk in chunks} == {GENERATOR}
    assert all(RFC3339.fullmatch(chunk["created_at"]) for chunk in chunks)
    plain = {"model", "created_at", "message", "response", "done"}
    assert all(set(chunk) <= plain for chunk in chunks[:-1])


def test_a_stream_is_the_default(client: httpx.Client) -> None:
    body = {"model": GENERATOR, "messages": HELLO, "options": {"num_predict": 1}}
    assert chunks_of(client.post("/api/chat", json=body))


def test_an_error_before_the_first_byte_of_a_stream_has_its_status(client: httpx.Client) -> None:
    error_of(chat(client, stream=True, model="nothing"), 404)
    error_of(chat(client, stream=True, format="xml"))
