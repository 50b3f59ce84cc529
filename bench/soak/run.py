"""The run: all clients at once, those who change and watch things meanwhile, and what must hold then."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.soak.asking import Asker
from bench.soak.badness import draw_bad_plan
from bench.soak.changing import (
    LOOK_S,
    OWN,
    Gates,
    Reloading,
    looked,
    make_and_delete,
    managed,
    resident,
    unload_now_and_then,
)
from bench.soak.drawing import Models, draw_plan, embed
from bench.soak.findings import Findings
from bench.soak.judging import (
    GENERATED,
    IN_PROGRESS,
    Counted,
    Series,
    disagreements,
    own_faults,
    requests_of,
    total_of,
)
from bench.soak.plans import Key, Plan, Wire
from bench.soak.watching import Watcher, engine_figures

BAD, HALF = 0.12, 0.02
"""The parts of requests that are wrong, and that break off in their bodies."""
IDLE_S = 120
AGREE_S = 20
AFTER_FAILURE_S = 1.0


@dataclass(frozen=True)
class Terms:
    """How to run. ``alone``: nobody else asks this server; ``body_bytes`` None: its limit is not known."""

    clients: int
    duration_s: float
    seed: int
    keys: Mapping[Key, str]
    alone: bool = True
    body_bytes: int | None = None


class Soak:
    """One run against the server at ``url``."""

    def __init__(self, url: str, terms: Terms, process_id: int | None) -> None:
        self.findings = Findings()
        self.asker = Asker(url, terms.keys, self.findings)
        self._terms = terms
        self._process_id = process_id
        self.reloading: Reloading | None = None
        self._gates = Gates()

    async def run(self) -> None:
        """Keep asking, wait for the answers that are still due, and see what has become of the server."""
        try:
            watcher = Watcher(self.asker, self._process_id)
            before = await watcher.metrics()
            models = await find_models(self.asker)
            for model in models.embedding:
                await self.asker.ask(embed(self._dice("first"), model))
            await self._all_at_once(models, watcher)
            await self._expect_idle()
            await self._expect_agreement(watcher, before)
            if self._process_id is not None:
                await self._stop_under_way(models.chatting[0], self._process_id)
        finally:
            await self.asker.aclose()

    async def _all_at_once(self, models: Models, watcher: Watcher) -> None:
        until_s, ended = time.monotonic() + self._terms.duration_s, asyncio.Event()
        changes = [
            unload_now_and_then(
                self.asker, self._gates, (*models.chatting, *models.embedding), self._dice("unload"), until_s
            ),
            make_and_delete(self.asker, models.chatting[-1], self._dice("make"), until_s),
        ]
        if self.reloading is not None:
            changes.append(self.reloading.now_and_then(self._dice("reload"), until_s))
        everything = [*models.chatting, *models.embedding]
        watching = [watcher.watch(everything, ended), watcher.events(self._dice("events"), until_s, ended)]
        onlookers = [asyncio.create_task(one) for one in watching]
        try:
            await asyncio.gather(
                *changes, *(self._talk(models, number, until_s) for number in range(self._terms.clients))
            )
        finally:
            ended.set()
            await asyncio.gather(*onlookers)

    async def _talk(self, models: Models, number: int, until_s: float) -> None:
        dice = self._dice(number)
        while time.monotonic() < until_s:
            plan = draw_plan(dice, models)
            draw = dice.random()
            if draw < HALF:
                await self.asker.half_a_body(plan)
                continue
            if draw < BAD:
                plan = draw_bad_plan(
                    dice, plan.body["model"], keys=bool(self.asker.keys), body_bytes=self._terms.body_bytes
                )
            else:
                await self._gates.passed(plan.body["model"])
            if await self.asker.ask(plan) is None:
                await asyncio.sleep(AFTER_FAILURE_S)

    async def _expect_idle(self) -> None:
        busy: dict[str, int] = {}
        for _ in range(round(IDLE_S / LOOK_S)):
            figures = engine_figures(await resident(self.asker))
            # Cells hold finished conversations, too: that they are in use is no sign of work.
            busy = {name: value for name, value in figures.items() if value and not name.startswith("cells")}
            if not busy:
                return
            await asyncio.sleep(LOOK_S)
        self.findings.fail(f"not idle at the end: {busy}")

    async def _expect_agreement(self, watcher: Watcher, before: Series) -> None:
        """The server counts a request a moment after its client has seen the end of it."""
        faults: list[str] = []
        for _ in range(round(AGREE_S / LOOK_S)):
            clients = self.findings.counted.copy()
            faults = self._differences(before, await watcher.metrics(), clients)
            if not faults:
                break
            await asyncio.sleep(LOOK_S)
        for fault in faults:
            self.findings.fail(f"/metrics: {fault}")

    def _differences(self, before: Series, now: Series, clients: Counted) -> list[str]:
        server = requests_of(now) - requests_of(before)
        faults = disagreements(server, clients, self.findings.open_ended, alone=self._terms.alone)
        generated = total_of(now, GENERATED) - total_of(before, GENERATED)
        if generated < self.findings.generated_tokens:
            faults.append(f"{generated:g} tokens generated, {self.findings.generated_tokens} came to clients")
        if self._terms.alone and (busy := total_of(now, IN_PROGRESS)) != 1:
            faults.append(f"{busy:g} requests in progress, where this look is the only one")
        return [*faults, *own_faults(server)]

    async def _stop_under_way(self, model: str, process_id: int) -> None:
        """SIGTERM while two answers are under way: both must come to their ends."""
        body = {"model": model, "prompt": "Rain.", "raw": True, "options": {"num_predict": 60}}
        plan = Plan("under way at SIGTERM", "/api/generate", body, Wire.OLLAMA, stream=True, most_tokens=60)
        begun = [asyncio.Event(), asyncio.Event()]
        answers = [asyncio.create_task(self.asker.ask(plan, begun=event)) for event in begun]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await asyncio.gather(*(event.wait() for event in begun))
        os.kill(process_id, signal.SIGTERM)
        await asyncio.gather(*answers)

    def _dice(self, name: object) -> random.Random:
        return random.Random(f"{self._terms.seed}/{name}")  # noqa: S311


async def find_models(asker: Asker) -> Models:
    """What there is to ask, by what the server says of each model. Leftovers of an earlier run do not count.

    Raises SystemExit where the server does not answer.
    """
    names = [
        model["name"] for model in (await _told(asker, looked("/api/tags", Wire.OLLAMA_OTHER)))["models"]
    ]
    able = {
        name: set((await _told(asker, managed("POST", "/api/show", {"model": name})))["capabilities"])
        for name in names
        if not name.startswith(OWN)
    }
    return Models(
        chatting=tuple(name for name, skills in able.items() if "completion" in skills),
        tooled=frozenset(name for name, skills in able.items() if "tools" in skills),
        embedding=tuple(name for name, skills in able.items() if "embedding" in skills),
    )


async def _told(asker: Asker, plan: Plan) -> Any:
    found = await asker.ask(plan)
    if found is None or found[1].faults:
        sys.exit(f"the server does not answer as it should: {next(iter(asker.findings.errors))}")
    return json.loads("\n".join(found[0].lines))
