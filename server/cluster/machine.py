"""The whole service of one machine within another program's process: the same application, but no socket.

What is a process's own in :mod:`server.serve` (signals, sockets, systemd) is the cluster's here. Everything
else, keys, limits, dialects, figures, is what it is on a single machine.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from server.api.access import Access
from server.app import build_app, build_service
from server.cluster.asgi import answer_of
from server.cluster.beginnings import folded
from server.cluster.recent_roots import RecentRoots
from server.cluster.wire import Asked, Head, Piece, Said, Taken, Whole
from server.config import Settings, load_settings, read_keys
from server.lifecycle import Startup, lifespan
from server.reloading import Reload, log_level
from server.serve import keys_and_limits, warnings_of
from server.service.service import Service
from server.supervision import Supervision
from server.systemd import Notifier

logger = logging.getLogger("llm-optimizer")

SILENCE_S = 120.0
"""A model that makes no step for so long is stuck, and its process must go: systemd's unit has the same."""


class Unfit(Exception):
    """The service cannot start, or does not work; the text says why."""


def settings_of(config: Path | None, listen: str) -> Settings:
    """The machine's own settings, for a service that is reached at ``listen``: what the file has to say of
    addresses is for a service of its own.

    Raises:
        ConfigError: they are wrong.
    """
    settings = load_settings(config, os.environ, {})
    return settings.model_copy(update={"listen": (listen,)})


class Machine:
    """One machine's service. Belongs to the event loop that :meth:`start` ran on."""

    def __init__(self, name: str, settings: Settings, read_again: Callable[[], Settings]) -> None:
        """``name`` is what answers, figures and the table of who holds what call it; ``read_again`` reads the
        settings for a reload.

        Raises:
            ConfigError: the settings or keys are wrong.
        """
        self.name = name
        self._read_again = read_again
        self._roots = RecentRoots()
        self._access = Access(settings.limits, read_keys(settings.keys_file))
        for warning in warnings_of(settings.addresses, self._access):
            logger.warning("%s", warning)
        self._service: Service = build_service(settings)
        self._signs = _Signs()
        self._started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._startup = Startup(self._service, self._ready, self._ready)
        self._supervision = Supervision(self._service, self._signs, SILENCE_S)
        living = lifespan(self._supervision.running, self._startup.running)
        self._app: FastAPI = build_app(self._service, settings, self._access, living)
        self._life = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Load what is to be loaded at the start.

        Raises:
            Unfit: no model at all can be loaded.
        """
        await self._life.enter_async_context(self._app.router.lifespan_context(self._app))
        await self._started
        if self._startup.failure is not None:
            await self.stop(0)
            raise Unfit(self._startup.failure)
        self._supervision.ready()

    async def stop(self, drain_s: float | None = None) -> None:
        """Take nothing new, wait for answers under way (None: as long as the setting says), unload."""
        patience_s = self._service.current.settings.drain_s if drain_s is None else drain_s
        self._service.drain.begin()
        await self._service.rest()
        if not await self._service.drain.finished(patience_s):
            logger.warning("answers cut off that took longer than %g s", patience_s)
        self._service.drain.cut()
        await self._life.aclose()

    async def answer(self, asked: Asked) -> AsyncGenerator[Said, None]:
        """The answer, after the word that it is being worked on. Who closes the generator hangs up."""
        if asked.begins.root is not None:
            self._roots.add(asked.begins.root)
        yield Taken(self.name)
        async with contextlib.aclosing(answer_of(self._app, asked)) as said:
            async for one in said:
                yield one

    async def whole(self, asked: Asked) -> Whole:
        """The same in one piece."""
        head, body = Head(500, ()), bytearray()
        async with contextlib.aclosing(answer_of(self._app, asked)) as said:
            async for one in said:
                if isinstance(one, Head):
                    head = one
                elif isinstance(one, Piece):
                    body += one.body
        return Whole(self.name, head.status, head.headers, bytes(body))

    def check(self) -> None:
        """Whether this process can go on, by what systemd's watchdog goes on a single machine. A model that
        has broken down is told of in /health, and its next request loads it anew: the others stay.

        Raises:
            Unfit: a model is stuck.
        """
        if self._signs.silent_s > SILENCE_S:
            raise Unfit(f"no sign of life for {self._signs.silent_s:.0f} s: a model makes no step")

    async def facts(self) -> dict[str, Any]:
        """What ingresses route by: models loaded and on disk by folded names, and which conversations
        were here lately, as hexadecimal digests, the last one at the end."""
        entries = await asyncio.to_thread(self._service.catalogue.entries)
        names = {folded(entry.name.display): entry for entry in entries}
        loaded = [name for name, entry in names.items() if self._service.fleet.at_work(entry) is not None]
        return {
            "name": self.name,
            "loaded": loaded,
            "on_disk": list(names),
            "roots": [root.hex() for root in self._roots.all()],
        }

    def reload(self) -> None:
        """Read settings and keys again, as SIGHUP does; where they are wrong all stays, as the log says."""
        prepared = [self._service.catalogue.read_again, log_level, keys_and_limits(self._access)]
        Reload(self._service.current, self._read_again, prepared).run()

    def _ready(self) -> None:
        if not self._started.done():
            self._started.set_result(None)


class _Signs(Notifier):
    """Hears the signs of life that systemd would hear. Its socket, if there is one, is another program's."""

    def __init__(self) -> None:
        super().__init__(_NOBODY)
        self._heard_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Since the last sign."""
        return time.monotonic() - self._heard_s

    def alive(self) -> None:
        """A sign."""
        self._heard_s = time.monotonic()


_NOBODY: Mapping[str, str] = {}
