"""The server that runs a model is killed: before the first token, in mid-stream, and comes back."""

import time
from pathlib import Path

import httpx
import pytest

from server.sockets import listening
from tests.remote.far import GENERATOR, break_in_the_middle, chat, history, near
from tests.running import RunningServer, embedded_config


def far_config(folder: Path, model: Path) -> Path:
    folder.mkdir()
    file = folder / "far.toml"
    file.write_text(embedded_config(model, helper={"path": str(model), "preload": False}))
    return file


@pytest.fixture
def port() -> int:
    """A free one."""
    with listening("127.0.0.1", 0) as taken:
        number: int = taken.getsockname()[1]
    return number


def test_a_generator_that_dies_and_comes_back(tmp_path: Path, embedded_model: Path, port: int) -> None:
    config = far_config(tmp_path / "far", embedded_model)
    far = RunningServer(config, port=port)
    try:
        with near(tmp_path, embedded_model, far.url) as server, server.client() as client:
            break_in_the_middle(client, far.kill)
            health = client.get("/health")
            assert health.status_code == 503
            assert "cannot be reached" in health.json()["faults"][GENERATOR]
            [told] = client.get("/health/gpu").json()["recent_faults"]
            assert told["where"] == GENERATOR
            far = RunningServer(config, port=port)
            answer = until_answered(client)
            assert answer.json()["message"]["content"]
            assert client.get("/health").status_code == 200
            assert not server.logged("Traceback")
    finally:
        far.kill()


def until_answered(client: httpx.Client) -> httpx.Response:
    for _ in range(200):
        answer = client.post("/api/chat", json=chat("Hi", stream=False))
        if answer.status_code == 200:
            return answer
        assert answer.status_code == 503
        time.sleep(0.2)
    raise AssertionError(answer.text)


def test_a_helper_that_dies_costs_no_answer(tmp_path: Path, embedded_model: Path) -> None:
    far = RunningServer(far_config(tmp_path / "far", embedded_model))
    try:
        url, name = far.url, {"remote_model": GENERATOR}
        with near(tmp_path, embedded_model, url, role="helper", **name) as server, server.client() as client:
            body = {**chat("", stream=False), "messages": history(2)}
            answer = client.post("/api/chat", json=body, headers={"X-LLM-Optimizer-Policy": "one-pass"})
            assert answer.json()["llm_optimizer"]["strategy"] == "B", answer.text
            far.kill()
            body["messages"] = history(2, first=100)
            answer = client.post("/api/chat", json=body, headers={"X-LLM-Optimizer-Policy": "one-pass"})
            done = answer.json()["llm_optimizer"]
            assert done["strategy"] == "A"
            assert "cannot be reached" in done["fallback"]
            assert answer.json()["message"]["content"]
            assert not server.logged("Traceback")
    finally:
        far.kill()
