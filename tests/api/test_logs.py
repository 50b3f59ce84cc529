"""A server that logs JSON at the lowest level and keeps every request: what it writes down, and what not."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, chat_body, eventually, generate_body
from tests.running import PROJECT, RunningServer, embedded_config, serving

CANARY = "canary-7f3a"
FEW = {"num_predict": 1, "temperature": 0}
KEYS = {"Authorization": f"Bearer {CANARY}", "X-Api-Key": CANARY, "Cookie": f"session={CANARY}"}


@pytest.fixture(scope="module")
def server(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """So that a short chat is a long one: B begins at 60 tokens."""
    folder = tmp_path_factory.mktemp("telling")
    router = {"strategy_a_max": 60, "strategy_b_max": 5000, "summary_chars_max": 100}
    tables = embedded_config(embedded_model, generator={"policy": "thresholds"}, router=router)
    top = 'log_level = "debug"\nlog_format = "json"\ncapture_dir = "captures"\ncapture_mib = 1\n'
    with serving(folder, top + tables) as running:
        yield running


@pytest.fixture(scope="module")
def captures(server: RunningServer) -> Path:
    return server.folder / "captures"


def objects(server: RunningServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in list(server.log) if line.startswith("{")]


def access(server: RunningServer, response: httpx.Response) -> dict[str, Any]:
    """The access line of a request, of which there must be one."""
    name = response.headers["x-request-id"]

    def found() -> list[dict[str, Any]]:
        return [line for line in objects(server) if line.get("id") == name]

    assert eventually(lambda: bool(found()))
    [line] = found()
    return line


def captured(captures: Path, response: httpx.Response) -> dict[str, Any]:
    name = response.headers["x-request-id"]
    assert eventually(lambda: bool(list(captures.glob(f"*-{name}.json"))))
    [file] = captures.glob(f"*-{name}.json")
    assert eventually(lambda: file.stat().st_size > 0)
    told: dict[str, Any] = json.loads(file.read_text())
    return told


def test_each_request_has_one_line_with_its_figures_as_keys(
    server: RunningServer, client: httpx.Client
) -> None:
    answered = access(server, client.post("/api/chat", json=chat_body()))
    assert (answered["level"], answered["logger"]) == ("info", "llm-optimizer")
    assert (answered["route"], answered["status"], answered["outcome"]) == ("/api/chat", 200, "length")
    assert (answered["model"], answered["strategy"], answered["stream"]) == (GENERATOR, "A", False)
    assert answered["tokens_received"] == answered["tokens_cached"] + answered["tokens_prefilled"]
    assert answered["tokens_generated"] == 1
    assert 0 < answered["first_token_s"] <= answered["total_s"]
    assert answered["client"] == "127.0.0.1"
    refused = access(server, client.post("/v1/chat/completions", json={"model": "nobody"}))
    assert (refused["status"], refused["outcome"], refused["method"]) == (400, "invalid", "POST")
    looked = access(server, client.get("/api/tags"))
    assert (looked["route"], looked["outcome"]) == ("/api/tags", "ok")
    lost = access(server, client.get("/no/such/path"))
    assert (lost["path"], lost["outcome"]) == ("/no/such/path", "not_found")
    assert "route" not in lost
    assert access(server, client.get("/health"))["level"] == "debug"


def test_no_line_has_a_word_of_a_prompt(server: RunningServer, client: httpx.Client) -> None:
    text = f"The word is {CANARY}."
    talk = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": f"{text} " + "It stands in the book of the house. " * 20},
        {"role": "user", "content": "Which one?"},
    ]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"description": text}}}
    asked = [
        client.post("/api/chat", json=chat_body(messages=talk)),
        client.post("/api/chat", json=chat_body(messages=[{"role": "user", "content": {"text": text}}])),
        client.post("/api/chat", json=chat_body(messages=text)),
        client.post("/api/chat", json=chat_body(tools=[tool])),
        client.post("/api/chat", json=chat_body(format={"type": text})),
        client.post("/api/chat", content=f'{{"messages": "{text}'),
        client.post("/api/generate", json=generate_body(prompt=text, system=text, suffix="")),
        client.post(
            "/v1/chat/completions",
            json={"model": GENERATOR, "messages": [{"role": "user", "content": [text]}]},
        ),
        client.post("/v1/responses", json={"model": GENERATOR, "input": {"text": text}}),
        client.post(
            "/v1/messages",
            json={"model": GENERATOR, "max_tokens": 1, "system": [{"type": text}], "messages": talk},
        ),
        client.post("/api/embed", json={"model": GENERATOR, "input": text}),
        client.get("/api/tags", headers=KEYS, params={"q": CANARY}),
    ]
    lines = [access(server, response) for response in asked]
    assert {line["outcome"] for line in lines} >= {"ok", "length", "invalid"}
    assert lines[0]["planned"] == "B"
    assert [line for line in server.log if CANARY in line] == []


def test_whoever_hangs_up_while_the_helper_works_has_a_line_too(
    server: RunningServer, client: httpx.Client
) -> None:
    words = "Seven old men walk along the shore and count the boats. " * 40
    talk = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": words},
        {"role": "user", "content": "How many?"},
    ]
    with client.stream("POST", "/api/chat", json=chat_body(messages=talk, stream=True)) as response:
        next(response.iter_lines())
    line = access(server, response)
    assert (line["outcome"], line["planned"], line["summarised_messages"]) == ("cancelled", "B", 1)
    assert "tokens_sent" not in line


def test_a_request_is_kept_as_it_came_without_its_keys(
    server: RunningServer, client: httpx.Client, captures: Path
) -> None:
    body = chat_body(api_key=CANARY)
    told = captured(captures, client.post("/api/chat?beta=true", json=body, headers=KEYS))
    assert (told["method"], told["path"]) == ("POST", "/api/chat")
    assert told["body"] == {**body, "api_key": "[blanked]"}
    assert told["headers"]["content-type"] == "application/json"
    assert told["headers"]["authorization"] == told["headers"]["cookie"] == "[blanked]"
    assert CANARY not in json.dumps(told)


def test_a_packed_body_is_kept_unpacked_and_a_broken_one_as_text(
    client: httpx.Client, captures: Path
) -> None:
    packed = gzip.compress(json.dumps(chat_body()).encode())
    response = client.post("/api/chat", content=packed, headers={"Content-Encoding": "gzip"})
    assert captured(captures, response)["body"] == chat_body()
    response = client.post("/api/chat", content=b'{"model": ')
    assert captured(captures, response)["body"] == '{"model": '


def test_what_holds_no_prompt_is_not_kept(client: httpx.Client, captures: Path) -> None:
    asked = [client.get("/api/tags"), client.post("/api/show", json={"model": GENERATOR})]
    captured(captures, client.post("/api/chat", json=chat_body()))
    kept = " ".join(file.name for file in captures.iterdir())
    assert not [one for one in asked if one.headers["x-request-id"] in kept]


def test_captured_requests_can_be_replayed_and_explained(
    server: RunningServer, client: httpx.Client, captures: Path
) -> None:
    wanted = client.post("/api/chat", json=chat_body(stream=True))
    captured(captures, wanted)
    [file] = captures.glob(f"*-{wanted.headers['x-request-id']}.json")
    replay = [sys.executable, "scripts/replay.py", str(file), "--url", server.url]
    done = subprocess.run(replay, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert f"{file.name}: /api/chat 200, strategy A" in done.stdout
    done = subprocess.run([*replay, "--explain"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert f"{file.name}: {GENERATOR} A: " in done.stdout
    other = [*replay, "--model", "nobody"]
    done = subprocess.run(other, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, " 404, " in done.stdout) == (1, True)
