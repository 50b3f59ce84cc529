"""The generator is llama.cpp's own server, built from the sources of the binding."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.build_llama_server import built_llama_server
from tests.conftest import QWEN
from tests.engine.gguf_files import with_chat_template
from tests.remote.far import (
    GENERATOR,
    MONTHS,
    break_in_the_middle,
    chat,
    hang_up_in_the_middle,
    history,
    near,
)
from tests.running import RunningServer

pytestmark = pytest.mark.slow

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class LlamaServer:
    """A running llama-server."""

    def __init__(self, model: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        port = self.url.rpartition(":")[2]
        command = [str(built_llama_server()), "-m", str(model), "--port", port, "-c", "8192", "--jinja"]
        with log.open("w") as output:
            self.process = subprocess.Popen([*command, "-np", "2"], stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while not self._is_well():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def _is_well(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def is_idle(self) -> bool:
        """Whether it works on nothing."""
        return not any(slot["is_processing"] for slot in httpx.get(f"{self.url}/slots", timeout=30).json())

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def far(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """With a template that knows tools."""
    folder = tmp_path_factory.mktemp("llama")
    model = with_chat_template(embedded_model, folder / "tools.gguf", QWEN.read_text())
    running = LlamaServer(model, folder / "log")
    yield running
    running.kill()


@pytest.fixture(scope="module")
def server(
    far: LlamaServer, embedded_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Its generator is llama-server's."""
    with near(tmp_path_factory.mktemp("near"), embedded_model, far.url) as running:
        yield running


def theirs(far: LlamaServer, messages: list[dict[str, str]]) -> str:
    body = {"messages": messages, "temperature": 0, "max_tokens": 16}
    told = httpx.post(f"{far.url}/v1/chat/completions", json=body, timeout=120).json()
    return str(told["choices"][0]["message"]["content"])


def test_all_dialects_say_what_it_says(client: httpx.Client, far: LlamaServer) -> None:
    words = theirs(far, [{"role": "user", "content": MONTHS}])
    assert words
    asked = {"model": GENERATOR, "messages": [{"role": "user", "content": MONTHS}]}
    answers = [
        client.post("/api/chat", json=chat(MONTHS, stream=False)).json()["message"]["content"],
        client.post("/v1/chat/completions", json={**asked, "temperature": 0, "max_tokens": 16}).json()[
            "choices"
        ][0]["message"]["content"],
        client.post("/v1/messages", json={**asked, "temperature": 0, "max_tokens": 16}).json()["content"][0][
            "text"
        ],
        client.post(
            "/v1/responses",
            json={
                "model": GENERATOR,
                "input": MONTHS,
                "temperature": 0,
                "max_output_tokens": 16,
            },
        ).json()["output"][0]["content"][0]["text"],
    ]
    with client.stream("POST", "/api/chat", json=chat(MONTHS)) as told:
        chunks = [json.loads(line) for line in told.iter_lines()]
    answers.append("".join(chunk["message"]["content"] for chunk in chunks))
    assert answers == [words] * 5


def test_raw_prompts(client: httpx.Client) -> None:
    body = {"model": GENERATOR, "prompt": "A colour is", "raw": True, "stream": False}
    assert client.post("/api/generate", json={**body, "options": {"num_predict": 8}}).json()["response"]


def test_tokens_are_counted_as_it_counts_them(client: httpx.Client) -> None:
    told = client.post("/api/chat", json=chat("How long is this?", stream=False)).json()
    done = told["llm_optimizer"]
    assert "tokens_estimated" not in done
    explained = client.post("/api/router/explain", json=chat("How long is this?")).json()
    assert explained["tokens_received"] == told["prompt_eval_count"]
    assert not explained["tokens_estimated"]


def test_a_forced_call(client: httpx.Client) -> None:
    body = chat("Weather in Rome?", stream=False, tools=[WEATHER], tool_choice="required", num_predict=80)
    answer = client.post("/api/chat", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_a_schema(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    answer = client.post("/api/chat", json=chat("A colour?", stream=False, format=schema, num_predict=40))
    assert json.loads(answer.json()["message"]["content"])["colour"] in ("red", "blue")


@pytest.mark.parametrize(("policy", "strategy"), [("one-pass", "B"), ("map-reduce", "C")])
def test_the_helper_shortens_what_is_sent(client: httpx.Client, policy: str, strategy: str) -> None:
    body = {**chat("", stream=False), "messages": history(3)}
    done = client.post("/api/chat", json=body, headers={"X-LLM-Optimizer-Policy": policy}).json()[
        "llm_optimizer"
    ]
    assert done["strategy"] == strategy, done
    assert done["tokens_sent"] < done["tokens_received"]


def test_a_hang_up_ends_it_there(server: RunningServer, far: LlamaServer) -> None:
    hang_up_in_the_middle(server, lambda: not far.is_idle())


def test_it_is_killed_in_the_middle_and_before_the_first_token(
    client: httpx.Client, server: RunningServer, far: LlamaServer
) -> None:
    break_in_the_middle(client, far.kill)
    assert not server.logged("Traceback")
