"""Downloads under way. Each runs on a thread of its own, for as long as somebody waits for it."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from server.catalogue import Catalogue
from server.catalogue.download import Abandoned
from server.catalogue.installing import VERIFYING, Order, Progress, bring, enter, order_of
from server.domain.errors import ServiceError, Stopping
from server.service.fleet import Fleet

logger = logging.getLogger("llm-optimizer")

T = TypeVar("T")


SUCCESS = Progress("success")

_News = Progress | ServiceError | None
"""None ends a download's news."""


class Follower:
    """Somebody who waits for a download. Must be closed: where nobody waits, it stops."""

    def __init__(self, job: "_Job") -> None:
        self._job = job
        self._news: asyncio.Queue[_News] = asyncio.Queue()

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """Every step until the model is installed. Raises the ServiceError that it failed with."""
        while (news := await self._news.get()) is not None:
            if isinstance(news, ServiceError):
                raise news
            yield news

    def tell(self, news: _News) -> None:
        """Called on the event loop."""
        self._news.put_nowait(news)

    async def aclose(self) -> None:
        """Wait no longer."""
        self._job.followers.discard(self)


class _Job:
    """One download, and who waits for it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.asked = [order.asked]
        self.followers: set[Follower] = set()
        self.stopped = False
        self._loop = asyncio.get_running_loop()
        self._latest: Progress | None = None
        self._told_by_thread: Progress | None = None

    def follow(self) -> Follower:
        """One more who waits; the latest step is told at once."""
        follower = Follower(self)
        self.followers.add(follower)
        if self._latest is not None:
            follower.tell(self._latest)
        return follower

    def tell(self, news: _News) -> None:
        """Called on the event loop."""
        self._latest = news if isinstance(news, Progress) else self._latest
        for follower in tuple(self.followers):
            follower.tell(news)

    def tell_from_thread(self, progress: Progress) -> None:
        """The same from the download's thread. Raises Abandoned when nobody waits any more."""
        if self.stopped or not self.followers:
            raise Abandoned
        # Ollama's clients get one line for the check, without figures.
        news = Progress(VERIFYING) if progress.status == VERIFYING else progress
        if news != self._told_by_thread:
            self._told_by_thread = news
            self._loop.call_soon_threadsafe(self.tell, news)


class Pulls:
    """Installs models from the hub. Belongs to the event loop."""

    def __init__(self, catalogue: Catalogue, fleet: Fleet, changing: asyncio.Lock) -> None:
        self._catalogue = catalogue
        self._fleet = fleet
        self._changing = changing
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, text: str) -> Follower:
        """Begin to install the model that ``text`` names, or join those who wait for it already.

        Raises:
            InvalidRequest: it is no name.
            ModelNotFound: nobody knows where such a model comes from, and it is not here.
        """
        order = order_of(self._catalogue, text)
        key = order.name.full.casefold()
        job = self._jobs.get(key)
        if job is not None:
            job.asked.append(order.asked)
            return job.follow()
        job = self._jobs[key] = _Job(order)
        follower = job.follow()
        task = asyncio.create_task(self._run(key, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return follower

    def close(self) -> None:
        """Stop all downloads; what is here of them stays."""
        for job in self._jobs.values():
            job.stopped = True
            job.tell(Stopping())

    async def _run(self, key: str, job: _Job) -> None:
        try:
            await self._until_installed(job)
        except Abandoned:
            logger.info("pull of %s stopped: nobody waits for it", job.order.name.display)
        except ServiceError as error:
            logger.warning("pull of %s failed: %s", job.order.name.display, error)
            job.tell(error)
        except Exception:
            logger.exception("pull of %s broke", job.order.name.display)
            job.tell(ServiceError("internal error; the server's log has the details"))
        else:
            job.tell(SUCCESS)
        finally:
            del self._jobs[key]
            job.tell(None)

    async def _until_installed(self, job: _Job) -> None:
        while True:
            try:
                await self._install(job)
            except Abandoned:
                # Whoever came after the last one had left takes up where it stopped.
                if job.stopped or not job.followers:
                    raise
            else:
                return

    async def _install(self, job: _Job) -> None:
        brought = await _on_own_thread(
            lambda: bring(self._catalogue, job.order, job.asked, job.tell_from_thread)
        )
        if brought is None:
            return
        job.tell(Progress("writing manifest"))
        async with self._changing:
            if brought.former is not None and brought.outdates_weights:
                await self._fleet.forget(brought.former)
            await asyncio.to_thread(enter, self._catalogue, job.order, job.asked, brought)


async def _on_own_thread(work: Callable[[], T]) -> T:
    """The result of ``work``, which blocks for long: the process need not wait for its thread to end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(act: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            act(outcome)

    def run() -> None:
        act: Callable[[Any], None] = future.set_result
        outcome: Any
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001  # raised again where it is waited for
            act, outcome = future.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, act, outcome)

    threading.Thread(target=run, name="download", daemon=True).start()
    return await future
