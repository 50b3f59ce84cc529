"""Watches the memory of the devices while models work, and makes what can give way do so."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from server.gpu.guard import Level, Sight, Watched, missing_bytes, next_level
from server.service.faults import Faults
from server.service.gate import Gate

logger = logging.getLogger("llm-optimizer")

LOOK_S = 1.0
_MIB = 2**20


class Effects(Protocol):
    """What can be done for a device."""

    async def rest(self, device: str) -> None:
        """Stop what nobody waits for."""

    async def spill(self, device: str) -> None:
        """Move finished conversations to host memory."""

    async def leave(self, device: str, wanted_bytes: int) -> None:
        """Unload models that nobody uses, as many as are needed."""


class Guard:
    """Takes a look every second. Belongs to the event loop."""

    def __init__(
        self, look: Callable[[], Awaitable[Sight]], gate: Gate, effects: Effects, faults: Faults
    ) -> None:
        self._look = look
        self._gate = gate
        self._effects = effects
        self._faults = faults
        self._levels: dict[str, Level] = {}
        self._watched: Mapping[str, Watched] = {}
        self._unusable: dict[str, str] = {}
        self._known_faults: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on."""
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Watch no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def level_of(self, device: str) -> Level:
        """How short the memory of ``device`` is."""
        return self._levels.get(device, Level.CALM)

    def watched(self) -> Mapping[str, Watched]:
        """The devices that have models on them, as they were at the last look."""
        return self._watched

    async def look_once(self) -> None:
        """Act on one look."""
        sight = await self._look()
        self._watched = sight.devices
        self._tell_faults(sight.faults)
        self._shut_unusable({device: seen.fault for device, seen in sight.devices.items() if seen.fault})
        for device in self._levels.keys() - sight.devices.keys():
            self._change(device, Level.CALM, None)
        usable = {device: seen for device, seen in sight.devices.items() if seen.fault is None}
        for device, watched in usable.items():
            level = next_level(self.level_of(device), watched.free_bytes, watched.margin_bytes)
            self._change(device, level, watched)
            await self._act(device, level, watched)

    async def _watch(self) -> None:
        while True:
            try:
                await self.look_once()
            except Exception:
                # Without the guard the service still answers; it only sees less.
                logger.exception("the memory guard broke, and looks again")
            await asyncio.sleep(LOOK_S)

    async def _act(self, device: str, level: Level, watched: Watched) -> None:
        if level >= Level.REST:
            await self._effects.rest(device)
        if level is Level.SPILL:
            await self._effects.spill(device)
        if level is Level.LEAVE and watched.free_bytes is not None:
            await self._effects.leave(device, missing_bytes(watched.free_bytes, watched.margin_bytes))

    def _change(self, device: str, level: Level, watched: Watched | None) -> None:
        before = self.level_of(device)
        if level == before:
            return
        if level is Level.CALM:
            del self._levels[device]
            self._gate.open(device)
            logger.info("%s: enough memory is free again", device)
            return
        self._levels[device] = level
        if before is Level.CALM and watched is not None:
            text = _in_numbers(device, watched)
            self._gate.shut(device, text)
            self._faults.add(device, text)
            logger.warning("%s; new work waits", text)

    def _shut_unusable(self, faults: Mapping[str, str]) -> None:
        """Work on a card that is lost ends the whole process: it is refused."""
        for device in self._unusable.keys() - faults.keys():
            self._gate.open(device)
        for device, fault in faults.items():
            self._levels.pop(device, None)
            self._gate.shut(device, f"{device} cannot be used: {fault}", hopeless=True)
        self._unusable = dict(faults)

    def _tell_faults(self, faults: Mapping[str, str]) -> None:
        for where, text in faults.items():
            if self._known_faults.get(where) != text:
                self._faults.add(where, text)
                logger.warning("%s: %s", where, text)
        for where in self._known_faults.keys() - faults.keys():
            logger.info("%s works again", where)
        self._known_faults = dict(faults)


def _in_numbers(device: str, watched: Watched) -> str:
    free_mib = (watched.free_bytes or 0) // _MIB
    return (
        f"{device} is short of memory: {free_mib} MiB are free of the {watched.margin_bytes // _MIB} MiB "
        "that memory_margin_mib keeps; other programs may have taken them"
    )
