"""``/health`` and its like of the real server without a card; test_guarded_server.py has two."""

from types import SimpleNamespace
from typing import Any

import httpx

from server.api.health import faults_of
from server.catalogue import ModelName
from tests.running import RunningServer


def test_without_a_driver_the_endpoint_says_so(server: RunningServer) -> None:
    with server.client() as client:
        health = client.get("/health/gpu").json()
    if not health["devices"]:
        assert health["available"] is False
        assert "libnvidia-ml" in health["reason"] or "driver" in health["reason"]


def test_the_engines_are_shown_with_what_they_have_done(server: RunningServer) -> None:
    with server.client() as client:
        before = _generator(client)
        body = {"model": "smollm2:135m", "prompt": "1, 2, 3,", "raw": True, "options": {"num_predict": 5}}
        answer = client.post("/api/generate", json={**body, "stream": False}).json()
        after = _generator(client)
    gained = {
        name: after["figures"][name] - before["figures"][name]
        for name in ("requests", "prompt_tokens", "generated_tokens")
    }
    assert gained == {
        "requests": 1,
        "prompt_tokens": answer["prompt_eval_count"],
        "generated_tokens": answer["eval_count"],
    }
    assert sum(after["figures"]["first_token_s"]["counts"]) > 0
    assert (after["running"], after["queued"], after["cells_in_use"]) == (0, 0, 0)
    assert after["kept_tokens"] > 0
    assert after["cache"].keys() == {"ram_bytes", "disk_bytes", "states", "evictions"}


def test_all_is_well(server: RunningServer) -> None:
    with server.client() as client:
        response = client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_an_engine_that_broke_down_is_told_of() -> None:
    def resident(name: str, fault: str | None) -> Any:
        entry = SimpleNamespace(name=ModelName.parse(name))
        return SimpleNamespace(installed=SimpleNamespace(entry=entry), state=SimpleNamespace(fault=fault))

    assert faults_of([resident("a", None), resident("b", "it burst")]) == {"b:latest": "it burst"}


def _generator(client: httpx.Client) -> dict[str, Any]:
    health = client.get("/health/gpu").json()
    assert health["loading"] == {}
    return next(model for model in health["models"] if model["role"] == "generator")
