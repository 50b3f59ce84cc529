"""A model that answers one at a time and lets one more wait."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, eventually
from tests.running import embedded_config, serving

ENDS = {"0": -100, "2": -100}
"""The tokens with which the embedded model ends what it says."""
FOR_LONG = {"model": GENERATOR, "prompt": "Once", "max_tokens": 5000, "stream": True, "logit_bias": ENDS}
CHAT = {"model": GENERATOR, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
SHORT = {**CHAT, "options": {"num_predict": 2}}
POSITION = "x-llm-optimizer-queue-position"


@pytest.fixture(scope="module")
def narrow(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    one_waits = {"slots": 1, "queue": 1}
    config = embedded_config(embedded_model, generator=one_waits, helper={"preload": False})
    with serving(tmp_path_factory.mktemp("narrow"), config) as running, running.client() as client:
        yield client


def generator(client: httpx.Client) -> dict[str, Any]:
    slots: dict[str, Any] = client.get("/api/ps").json()["models"][0]["slots"]
    return slots


@contextlib.contextmanager
def busy(client: httpx.Client) -> Iterator[None]:
    """One request is being answered for as long as the block lasts, and all is quiet before and after."""
    with client.stream("POST", "/v1/completions", json=FOR_LONG) as first:
        assert first.status_code == 200
        assert POSITION not in first.headers
        assert eventually(lambda: generator(client)["running"] == 1)
        yield
    assert eventually(lambda: generator(client)["running"] == generator(client)["queued"] == 0)


def test_who_waits_is_told_its_place(narrow: httpx.Client) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(busy(narrow))
        second = stack.enter_context(narrow.stream("POST", "/api/chat", json=SHORT))
        assert second.status_code == 200
        assert second.headers[POSITION] == "1"


def test_who_waited_is_answered(narrow: httpx.Client) -> None:
    with contextlib.ExitStack() as ahead:
        ahead.enter_context(busy(narrow))
        with narrow.stream("POST", "/api/chat", json=SHORT) as second:
            # The one ahead hangs up.
            ahead.pop_all().__exit__(None, None, None)
            assert '"done":true' in second.read().decode().splitlines()[-1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/api/chat", 503, None),
        ("/api/generate", 503, None),
        ("/v1/chat/completions", 503, "api_error"),
        ("/v1/messages", 503, "overloaded_error"),
    ],
)
def test_one_too_many_is_refused_at_once(
    narrow: httpx.Client, path: str, status: int, kind: str | None, *, stream: bool
) -> None:
    with busy(narrow), narrow.stream("POST", "/api/chat", json=SHORT):
        refused = narrow.post(path, json={**SHORT, "prompt": "Hi", "stream": stream})
    assert refused.status_code == status
    assert int(refused.headers["retry-after"]) > 0
    error = refused.json()["error"]
    assert "maximum pending requests exceeded" in (error if kind is None else error["message"])
    assert kind is None or error["type"] == kind
