"""Signs of life that work earns, and the service in one line."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from server.app import build_service
from server.config import load_settings
from server.domain.chat import CompletionRequest, RunOptions
from server.engine.llamacpp.context import Context
from server.engine.looks import EngineState
from server.engine.pulse import Pulse
from server.service.service import Service
from server.supervision import Supervision, status_text, stuck_models
from server.systemd import Notifier
from tests.running import embedded_config

BUSY = EngineState(8, running=2, queued=3, context_tokens=1, cells_in_use=0, kept_sequences=0, kept_tokens=0)


class Listening(Notifier):
    """Notes what would be sent."""

    def __init__(self) -> None:
        super().__init__({})
        self.sent: list[str] = []

    def _send(self, *assignments: str) -> None:
        self.sent += assignments


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # threads and timers tell nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("before", "now", "stuck"),
    [
        ({}, {}, ()),
        ({}, {"a": 1}, ()),
        ({"a": 1}, {}, ()),
        ({"a": 1}, {"a": 2}, ()),
        ({"a": 1}, {"a": 1}, ("a",)),
        ({"a": 1, "loading b": 0.5}, {"a": 2, "loading b": 0.5}, ("loading b",)),
    ],
)
def test_who_is_stuck(before: dict[str, float], now: dict[str, float], stuck: tuple[str, ...]) -> None:
    assert stuck_models(before, now) == stuck


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (({}, []), "Starting"),
        (({"b": 0.426, "a": 1.0}, []), "Loading a (100%), b (43%)"),
        (({}, [BUSY]), "Ready: 1 model loaded, 2 answers under way, 3 waiting"),
        (({"b": 0.5}, [BUSY]), "Loading b (50%)"),
        (({}, [BUSY], ["a"]), "Stuck: no step of a"),
    ],
)
def test_the_service_in_one_line(given: Any, text: str) -> None:
    assert status_text(*given, ready=text.startswith("Ready"), draining=None) == text


def test_a_service_that_stops_says_what_it_waits_for() -> None:
    assert status_text({}, [BUSY], ready=True, draining=1) == "Stopping: 1 answer under way"
    assert status_text({}, [BUSY], ready=True, draining=0) == "Stopping: 0 answers under way"


def test_a_pulse_rests_and_beats() -> None:
    pulse = Pulse()
    first = pulse.beats
    pulse.beat()
    assert pulse.beats not in (first, None)
    pulse.rest()
    assert pulse.beats is None
    pulse.beat()
    assert pulse.beats is not None


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def service(embedded_model: Path, tmp_path: Path) -> AsyncIterator[Service]:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(embedded_model, generator={"context": 1024}))
    built = build_service(load_settings(config, {}, {"cache_dir": str(tmp_path / "cache")}))
    yield built
    await built.fleet.close()


@pytest.mark.anyio
async def test_a_stuck_step_silences_the_service_and_nothing_else_does(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = Listening()
    supervision = Supervision(service, notifier, silence_s=None)

    def signs_of(looks: int) -> int:
        before = len(notifier.sent)
        for _ in range(looks):
            supervision.look()
        return len(notifier.sent) - before

    await service.load("smollm2:135m", "generate", RunOptions())
    assert signs_of(3) == 3, "a model that waits for work is well"

    entered, let_go = threading.Event(), threading.Event()
    decode = Context.decode

    def stuck(self: Context, batch: Any) -> Any:
        entered.set()
        let_go.wait()
        return decode(self, batch)

    monkeypatch.setattr(Context, "decode", stuck)
    request = CompletionRequest("smollm2:135m", "Hi", options=RunOptions(max_tokens=2))
    reply = await service.complete(request)
    answer = asyncio.create_task(reply.whole())
    try:
        await asyncio.to_thread(entered.wait)
        signs_of(1)
        assert signs_of(3) == 0
        assert "smollm2:135m" in [fault.where for fault in service.fleet.faults.recent()]
    finally:
        let_go.set()
    await answer
    await until(lambda: not service.fleet.beats())
    assert signs_of(2) == 2, "it moves again"


@pytest.mark.anyio
async def test_the_signs_come_by_themselves(service: Service) -> None:
    notifier = Listening()
    async with Supervision(service, notifier, silence_s=0.2).running():
        await until(lambda: notifier.sent.count("WATCHDOG=1") >= 3)
    assert "STATUS=Starting" in notifier.sent
    count = len(notifier.sent)
    await asyncio.sleep(0.2)
    assert len(notifier.sent) == count
