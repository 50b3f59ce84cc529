"""What an administrator does while all others ask: models come and go, settings are read again."""

import asyncio
import collections
import itertools
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.soak.asking import Asker
from bench.soak.judging import REFUSED_RELOAD
from bench.soak.own_server import Reload, Setup, reload_now
from bench.soak.plans import Expected, Key, Plan, Wire

UNLOAD_S = 120
RELOAD_S = 30
LOOK_S = 0.2
OWN = "soak-"
"""How the names of models begin that the run makes, and deletes again."""


class Gates:
    """Closed while a model is to be unloaded: models in use stay, so whoever wants to ask has to wait."""

    def __init__(self) -> None:
        self._open: collections.defaultdict[str, asyncio.Event] = collections.defaultdict(_opened)

    async def passed(self, model: str) -> None:
        """Wait until it is open."""
        await self._open[model].wait()

    def close(self, model: str) -> None:
        """Let nobody pass."""
        self._open[model].clear()

    def open(self, model: str) -> None:
        """Let all pass."""
        self._open[model].set()


def _opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def pause(seconds: float, until_s: float) -> None:
    """Sleep, but not beyond the end of the run."""
    await asyncio.sleep(min(seconds, max(until_s - time.monotonic(), 0)))


async def resident(asker: Asker) -> list[dict[str, Any]]:
    """The models that are loaded, as /api/ps has them; none where the answer was no good."""
    found = await asker.ask(looked("/api/ps", Wire.OLLAMA_OTHER))
    if found is None or found[1].faults:
        return []
    models: list[dict[str, Any]] = json.loads("\n".join(found[0].lines))["models"]
    return [model for model in models if model.get("state") != "loading"]


def looked(path: str, wire: Wire, **parts: Any) -> Plan:
    """A GET that all is well with."""
    return Plan(f"GET {path}", path, None, wire, method="GET", **parts)


def managed(method: str, path: str, body: dict[str, Any], expected: Expected | None = None) -> Plan:
    """A request of an administrator."""
    whole = {"stream": False, **body}
    wire = Wire.OLLAMA_OTHER
    return Plan(f"{method} {path}", path, whole, wire, expected or Expected(), method, Key.ADMIN)


async def unload_now_and_then(
    asker: Asker, gates: Gates, models: tuple[str, ...], dice: random.Random, until_s: float
) -> None:
    """Unload one of ``models`` every now and then, and see that it is gone."""
    while time.monotonic() < until_s:
        model = dice.choice(models)
        gates.close(model)
        try:
            await unload(asker, model)
        finally:
            gates.open(model)
        await pause(dice.uniform(10, 40), until_s)


async def unload(asker: Asker, model: str) -> None:
    """Tell the server to unload a model, and wait until it has."""
    told = await asker.ask(managed("POST", "/api/generate", {"model": model, "keep_alive": 0}))
    if told is not None and '"unload"' not in "".join(told[0].lines):
        asker.findings.fail(f"unloading: {' '.join(told[0].lines)[:200]}")
    for _ in range(round(UNLOAD_S / LOOK_S)):
        if model not in {other["name"] for other in await resident(asker)}:
            asker.findings.events["models unloaded"] += 1
            return
        await asyncio.sleep(LOOK_S)
    asker.findings.events["models still in use, and so not unloaded"] += 1


async def make_and_delete(asker: Asker, base: str, dice: random.Random, until_s: float) -> None:
    """Make a further model of ``base`` every now and then, ask it, and delete it again."""
    for number in itertools.count(1):
        if time.monotonic() >= until_s:
            return
        await further_model(asker, base, f"{OWN}{number}", create=dice.random() < 0.5)  # noqa: PLR2004
        await pause(dice.uniform(15, 40), until_s)


async def further_model(asker: Asker, base: str, name: str, *, create: bool) -> None:
    """The life of one model."""
    if create:
        recipe = {"model": name, "from": base, "system": "Speak of rain.", "parameters": {"num_predict": 9}}
        await asker.ask(managed("POST", "/api/create", recipe))
    else:
        await asker.ask(managed("POST", "/api/copy", {"source": base, "destination": name}))
    await asker.ask(managed("POST", "/api/show", {"model": name}))
    await asker.ask(_greeting(name))
    await asker.ask(managed("DELETE", "/api/delete", {"model": name}))
    await asker.ask(managed("POST", "/api/show", {"model": name}, Expected(404, "not_found")))
    asker.findings.events["models made, asked and deleted"] += 1


def _greeting(model: str) -> Plan:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello!"}],
        "options": {"num_predict": 9},
        "keep_alive": 0,
    }
    return Plan("a further model", "/api/chat", body, Wire.OLLAMA, key=Key.ADMIN, stream=True, most_tokens=9)


@dataclass(frozen=True)
class Reloading:
    """Has the settings read again: other ones where the server is our own, or else what there is."""

    asker: Asker
    process_id: int
    log_file: Path
    setup: Setup | None

    async def now_and_then(self, dice: random.Random, until_s: float) -> None:
        """Good files, and a wrong one now and then: then all stays as it was."""
        turn_known = False
        while time.monotonic() < until_s:
            await pause(dice.uniform(5, 30), until_s)
            wrong = self.setup is not None and dice.random() < 0.3  # noqa: PLR2004
            files = Reload(dice.choice([1000, 2000]), dice.choice(["info", "debug"]), not turn_known, wrong)
            if self.setup is not None:
                self.setup.write(files)
            await self._told(wrong=wrong)
            if self.setup is not None:
                turn_known = turn_known if wrong else files.has_turn
                await self._check_turn(known=turn_known)

    async def _told(self, *, wrong: bool) -> None:
        before = self._lines()
        reload_now(self.process_id)
        for _ in range(round(RELOAD_S / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            if new := self._lines()[len(before) :]:
                if (REFUSED_RELOAD in new[0]) is not wrong:
                    self.asker.findings.fail(
                        f"of a {'wrong' if wrong else 'good'} file the log says: {new[0]}"
                    )
                self.asker.findings.events[f"reloads of {'wrong' if wrong else 'good'} files"] += 1
                return
        self.asker.findings.fail(f"a reload left no word in the log within {RELOAD_S} s")

    async def _check_turn(self, *, known: bool) -> None:
        expected = Expected() if known else Expected(401, "refused", "unmatched")
        await self.asker.ask(
            Plan("key by reload", "/api/version", None, Wire.OLLAMA_OTHER, expected, "GET", Key.TURN)
        )

    def _lines(self) -> list[str]:
        text = self.log_file.read_text(errors="replace")
        return [
            line for line in text.splitlines() if " reload: " in line and "only after a restart" not in line
        ]
