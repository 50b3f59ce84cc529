"""The helper fails: answers still come, with one log line each, or a clear 400."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conversations import as_one_message
from tests.running import RunningServer, embedded_config

MIDDLE, LARGE = 400, 3200
SMALL: dict[str, dict[str, Any]] = {
    "generator": {"context": 1024},
    "router": {
        "strategy_a_max": 200,
        "strategy_b_max": 600,
        "summary_chars_max": 120,
        "token_estimator": "chars",
    },
}
"""Small thresholds and a small window: the same paths in a tenth of the time."""


@pytest.fixture
def start(tmp_path: Path, embedded_model: Path) -> Iterator[Any]:
    """Starts servers with their own copy of the helper's file, and stops them."""
    started: list[RunningServer] = []
    helper = tmp_path / "helper.gguf"
    shutil.copy(embedded_model, helper)

    def starting(**tables: dict[str, Any]) -> tuple[RunningServer, Path]:
        config = tmp_path / "config.toml"
        merged = {name: {**SMALL[name], **tables.get(name, {})} for name in SMALL}
        config.write_text(embedded_config(embedded_model, helper=helper, **merged))
        started.append(RunningServer(config))
        return started[-1], helper

    yield starting
    for running in started:
        running.kill()


def chat(server: RunningServer, tokens: int, **body: Any) -> Any:
    request = {
        "model": "smollm2:135m",
        "messages": as_one_message(tokens),
        "stream": False,
        "options": {"num_predict": 4},
        **body,
    }
    with server.client() as client:
        return client.post("/api/chat", json=request)


def test_a_helper_whose_file_went_away_is_done_without(start: Any) -> None:
    server, helper = start()
    with server.client() as client:
        client.post("/api/generate", json={"model": "smollm2:135m-helper", "keep_alive": 0})
        helper.unlink()
        while len(client.get("/api/ps").json()["models"]) > 1:
            pass
        answer = chat(server, MIDDLE).json()
        assert answer["llm_optimizer"]["strategy"] == "A"
        assert answer["llm_optimizer"]["planned"] == "B"
        assert "does not exist" in answer["llm_optimizer"]["fallback"]
        [line] = server.logged("fallback direto GPU0")
        assert "/api/chat" in line
        assert "does not exist" in line
        # Too long for the generator's window without the helper: said so, with a status of its own.
        refused = chat(server, LARGE, stream=True)
        assert refused.status_code == 400
        assert refused.json()["error"].startswith("prompt is too long: ")
        assert "exceed the context window of 1024 tokens" in refused.json()["error"]
        # Named directly, the helper is an error of its own; the generator serves on.
        broken = client.post("/api/generate", json={"model": "smollm2:135m-helper", "prompt": "Hi"})
        assert broken.status_code == 500
        assert "does not exist" in broken.json()["error"]
        names = [model["name"] for model in client.get("/api/tags").json()["models"]]
        assert names == ["smollm2:135m"]


def test_a_helper_that_is_too_slow_is_done_without(start: Any) -> None:
    server, _ = start(router={"helper_timeout_s": 0.05})
    answer = chat(server, MIDDLE).json()
    assert answer["llm_optimizer"]["fallback"] == "the helper took longer than 0.05 s"
    assert len(server.logged("fallback direto GPU0")) == 1
    with server.client() as client:
        for _ in range(100):
            helper = client.get("/api/ps").json()["models"]
            if all(model["slots"]["running"] == 0 for model in helper):
                break
        assert all(model["slots"]["running"] == 0 for model in helper)


def test_a_damaged_helper_at_the_start_leaves_the_generator_serving(start: Any, tmp_path: Path) -> None:
    (tmp_path / "helper.gguf").write_bytes((tmp_path / "helper.gguf").read_bytes()[:1_000_000])
    server, helper = start()
    assert any("is truncated" in line for line in server.log)
    assert any("NOT LOADED" in line for line in server.log)
    answer = chat(server, MIDDLE).json()
    assert "is truncated" in answer["llm_optimizer"]["fallback"]
    assert answer["message"]["content"]
    # Once the file is whole again, the next request loads it.
    shutil.copy(Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf", helper)
    assert chat(server, MIDDLE).json()["llm_optimizer"]["strategy"] == "B"
