"""The start and the end of a running service: models that load, signals that come, answers that finish."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server.app import Lifespan
from server.catalogue import Entry
from server.domain.errors import ServiceError
from server.service.service import Service
from server.systemd import Notifier

logger = logging.getLogger("llm-optimizer")

SHUTDOWN_S = 5
"""So long connections may take to close once their answers have ended."""

UNLOADING_S = 20
"""Weights and conversations are given back within this time."""


class Startup:
    """Loads the models while the service already answers: who asks for one waits for it."""

    def __init__(self, service: Service, ready: Callable[[], None], give_up: Callable[[], None]) -> None:
        self._service = service
        self._ready = ready
        self._give_up = give_up
        self.failure: str | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load at the beginning of the block; at its end all is unloaded."""
        loading = asyncio.create_task(self._load_all())
        self._service.guard.start()
        self._service.fleet.elsewhere.start()
        yield
        loading.cancel()
        await self._service.close()

    async def _load_all(self) -> None:
        configured = self._service.catalogue.configured
        wanted = [entry for entry in configured if entry.settings.is_preloaded]
        reasons = await asyncio.gather(*(self._load(entry) for entry in wanted))
        if self._service.drain.begun:
            return
        faults = [reason for reason in reasons if reason is not None]
        if (
            faults
            and len(faults) == len(reasons)
            and not any(map(self._service.fleet.elsewhere.of, configured))
        ):
            self.failure = "no model can be loaded:\n  " + "\n  ".join(faults)
            self._give_up()
            return
        for fault in faults:
            logger.error("%s; the other model serves, and the next request for this one tries again", fault)
        self._ready()

    async def _load(self, entry: Entry) -> str | None:
        logger.info("loading %s on %s", entry.name.display, entry.settings.where)
        try:
            await self._service.fleet.load(entry)
        except ServiceError as error:
            return f"{entry.section} {entry.name.display}: {error}"
        return None


class Server(uvicorn.Server):
    """uvicorn with signals of our own.

    SIGTERM lets answers under way finish, for ``drain_s`` at most, and takes no new ones; a second signal,
    and SIGINT, end them at once. SIGHUP calls ``reload``, unless it comes because the terminal is gone that
    the service was started from: then it ends, as any other program there. ``keeps_address``: somebody else
    holds the sockets for the next process, so that connections may wait there instead of being refused here.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        notifier: Notifier,
        reload: Callable[[], None],
        *,
        keeps_address: bool,
    ) -> None:
        super().__init__(config)
        self._service = service
        self._notifier = notifier
        self._reload = reload
        self._keeps_address = keeps_address
        # nohup ignores SIGHUP for whom it starts: such a service outlives its terminal.
        self._needs_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._draining: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Called by uvicorn around everything."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first SIGTERM is patient; a second signal of any kind is not."""
        name = signal.Signals(sig).name
        drain_s = self._service.current.settings.drain_s
        if sig == signal.SIGTERM and drain_s and not self._service.drain.begun:
            logger.info("%s: no new requests; answers under way may take %d s", name, drain_s)
            self._draining = asyncio.create_task(self._drain(drain_s))
            return
        logger.info("%s: stopping", name)
        super().handle_exit(sig, frame)
        self.end()

    def end(self) -> None:
        """Stop accepting, and end what is under way."""
        self.should_exit = True
        self._begin_to_stop(0)
        if self._draining is not None:
            self._draining.cancel()
        if self._ending is None:
            self._ending = asyncio.create_task(self._end_all())

    async def _drain(self, limit_s: float) -> None:
        self._begin_to_stop(limit_s)
        if self._keeps_address:
            for listener in self.servers:
                listener.close()
        await self._service.rest()
        if not await self._service.drain.finished(limit_s):
            left = self._service.drain.answering
            logger.warning("answers cut off that took longer than drain_s = %d: %d", limit_s, left)
        self._draining = None
        self.end()

    def _begin_to_stop(self, patience_s: float) -> None:
        if not self._service.drain.begun:
            self._service.drain.begin()
            self._notifier.stopping(patience_s + SHUTDOWN_S + UNLOADING_S)

    async def _end_all(self) -> None:
        self._service.drain.cut()
        await self._service.close()

    def _on_hangup(self) -> None:
        if self._needs_terminal and not _has_terminal():
            logger.info("SIGHUP: stopping, the terminal is gone")
            self.end()
            return
        if self._service.drain.begun:
            logger.info("SIGHUP: nothing is reloaded, the service is stopping")
            return
        logger.info("SIGHUP: reading the settings again")
        self._reload()


def lifespan(*parts: Callable[[], contextlib.AbstractAsyncContextManager[None]]) -> Lifespan:
    """All ``parts`` around the application's life, the first outermost."""

    @contextlib.asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for part in parts:
                await stack.enter_async_context(part())
            yield

    return running


def _has_terminal() -> bool:
    """Whether there is a terminal from which this process is controlled."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
