"""How the service is, told to systemd while it runs: in words, and by signs of life that work earns."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from server.engine.looks import EngineState
from server.service.service import Service
from server.systemd import Notifier

logger = logging.getLogger("llm-optimizer")

TICK_S = 1.0
LOADING_PATIENCE_S = 120.0
"""So long a model that is being loaded may make no step."""

SIGNS_PER_SILENCE = 4
"""So often systemd hears of the service in the time after which it would end it."""


class Supervision:
    """Tells ``notifier`` what the service does. ``silence_s`` is what systemd allows; None: it doesn't watch.

    A sign of life needs two things: the event loop runs, for it sends the sign; and no model has been at the
    same step since the sign before. A model that waits for work is well.
    """

    def __init__(self, service: Service, notifier: Notifier, silence_s: float | None) -> None:
        self._service = service
        self._notifier = notifier
        self._silence_s = silence_s
        self._ready = False
        self._beats: Mapping[str, float] = {}
        self._stuck: tuple[str, ...] = ()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell for as long as the block lasts."""
        tasks = [asyncio.create_task(self._tell())]
        if self._silence_s is not None:
            tasks.append(asyncio.create_task(self._live(self._silence_s / SIGNS_PER_SILENCE)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def ready(self) -> None:
        """What the start was to load is there."""
        self._ready = True
        self._notifier.ready()
        self._notifier.status(self._status())

    def around_reload(self, reload: Callable[[], None]) -> None:
        """Call ``reload``, and tell of it. While the service starts, a "ready" would come too early."""
        if not self._ready:
            reload()
            return
        self._notifier.reloading()
        reload()
        self._notifier.ready()

    async def _tell(self) -> None:
        parts: Mapping[str, float] = {}
        while True:
            self._notifier.status(self._status())
            parts, before = self._service.fleet.loading(), parts
            if not self._ready and parts != before:
                self._notifier.more_time(LOADING_PATIENCE_S)
            await asyncio.sleep(TICK_S)

    async def _live(self, pause_s: float) -> None:
        while True:
            self.look()
            await asyncio.sleep(pause_s)

    def look(self) -> None:
        """Give a sign of life if all models have moved since the last look."""
        before, self._beats = self._beats, self._service.fleet.beats()
        stuck = stuck_models(before, self._beats)
        for name in sorted(set(stuck) - set(self._stuck)):
            text = "makes no step; systemd restarts the service if that goes on"
            self._service.fleet.faults.add(name, text)
            logger.warning("%s %s", name, text)
        self._stuck = stuck
        if not stuck:
            self._notifier.alive()

    def _status(self) -> str:
        fleet = self._service.fleet
        return status_text(
            fleet.loading(),
            [resident.state for resident in fleet.residents()],
            self._stuck,
            ready=self._ready,
            draining=self._service.drain.answering if self._service.drain.begun else None,
        )


def stuck_models(before: Mapping[str, float], now: Mapping[str, float]) -> tuple[str, ...]:
    """The models that work on the same step as before."""
    return tuple(sorted(name for name, beats in now.items() if before.get(name) == beats))


def status_text(
    loading: Mapping[str, float],
    states: Sequence[EngineState],
    stuck: Sequence[str] = (),
    *,
    ready: bool,
    draining: int | None,
) -> str:
    """The service in one line. ``loading``: the part of each model that is there; ``draining``: so many
    answers are waited for, None: the service is not stopping."""
    if draining is not None:
        return f"Stopping: {_counted(draining, 'answer')} under way"
    if stuck:
        return f"Stuck: no step of {', '.join(stuck)}"
    if loading:
        parts = ", ".join(f"{name} ({part:.0%})" for name, part in sorted(loading.items()))
        return f"Loading {parts}"
    if not ready:
        return "Starting"
    running, waiting = sum(state.running for state in states), sum(state.queued for state in states)
    models, answers = _counted(len(states), "model"), _counted(running, "answer")
    return f"Ready: {models} loaded, {answers} under way, {waiting} waiting"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
