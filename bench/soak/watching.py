"""What looks on while all others ask: the process, /metrics, health, and the page's stream of events."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Collection, Sequence
from typing import Any

from bench.soak.asking import Asker
from bench.soak.changing import looked, resident
from bench.soak.findings import Sample
from bench.soak.judging import FREE, IN_USE, PYTHON_BLOCKS, Series, series_of, shrunk
from bench.soak.plans import Plan, Wire
from bench.soak.process import process_now

SAMPLE_S = 2.0
LOOKS = (
    looked("/health", Wire.OLLAMA_OTHER),
    looked("/health/gpu", Wire.OLLAMA_OTHER),
    looked("/api/version", Wire.OLLAMA_OTHER),
    looked("/api/tags", Wire.OLLAMA_OTHER),
    looked("/v1/models", Wire.OLLAMA_OTHER),
    looked("/dashboard", Wire.TEXT),
)
"""Not /health/ready: without a model that was unloaded the service is not ready, and says so."""
EVENTS = "/dashboard/events"
LONGEST_SILENCE_S = 20.0


class Watcher:
    """Belongs to the event loop. ``process_id`` None: a process that is not ours to look into."""

    def __init__(self, asker: Asker, process_id: int | None) -> None:
        self._asker = asker
        self._process_id = process_id
        self._start_s = time.monotonic()
        self._before: Series = {}

    async def watch(self, models: Collection[str], ended: asyncio.Event) -> None:
        """Look every two seconds until ``ended``; ``models`` are those whose memory together is compared."""
        for look in itertools.cycle(LOOKS):
            if ended.is_set():
                return
            await self._look(frozenset(models))
            await self._asker.ask(look)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), SAMPLE_S)

    async def metrics(self) -> Series:
        """A look at /metrics; no counter may have gone down since the last one."""
        found = await self._asker.ask(looked("/metrics", Wire.TEXT))
        if found is None or found[1].faults:
            return {}
        now = series_of("\n".join(found[0].lines) + "\n")
        for fault in shrunk(self._before, now):
            self._asker.findings.fail(f"a counter went down: {fault}")
        self._before = now
        return now

    async def events(self, dice: random.Random, until_s: float, ended: asyncio.Event) -> None:
        """Follow the page's stream for a while, hang up, and come again."""
        while not ended.is_set():
            patience_s = min(dice.uniform(5, 90), max(until_s - time.monotonic(), 1))
            plan = looked(EVENTS, Wire.EVENTS, manner="hung up", hang_up_after_s=patience_s)
            await self._followed(plan, ended)

    async def _followed(self, plan: Plan, ended: asyncio.Event) -> None:
        begun = asyncio.Event()
        asked = asyncio.create_task(self._asker.ask(plan, begun=begun))
        while not asked.done() and not ended.is_set():
            waited_s = time.monotonic()
            waiting = asyncio.create_task(begun.wait())
            await asyncio.wait(
                {asked, waiting}, timeout=LONGEST_SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            waiting.cancel()
            silence_s = time.monotonic() - waited_s
            self._asker.findings.longest_silence_s = max(self._asker.findings.longest_silence_s, silence_s)
            if not begun.is_set() and not asked.done():
                self._asker.findings.fail(f"{EVENTS}: no line within {LONGEST_SILENCE_S:.0f} s")
            begun.clear()
        await asked

    async def _look(self, models: frozenset[str]) -> None:
        findings, loaded = self._asker.findings, await resident(self._asker)
        for name, value in engine_figures(loaded).items():
            findings.most[name] = max(findings.most[name], value)
        now = await self.metrics()
        # Without one of the models, or with another one, its memory is of another size, which says nothing.
        if self._process_id is None or {model["name"] for model in loaded} != models or not now:
            return
        if IN_USE not in now:
            findings.fail("/metrics does not tell what malloc has given out")
            return
        # A server that is gone is noted by all clients.
        with contextlib.suppress(OSError):
            at_s, process = time.monotonic() - self._start_s, process_now(self._process_id)
            findings.samples.append(Sample(at_s, process, now[IN_USE], now[FREE], now[PYTHON_BLOCKS]))


def engine_figures(loaded: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What ``/api/ps`` says about the work of each engine."""
    return {
        f"{name} of {model['name']}": value
        for model in loaded
        for name, value in {**model, **model.get("slots", {})}.items()
        if name in {"running", "queued", "cells_in_use"}
    }
