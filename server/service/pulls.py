"""Downloads under way. Each runs on a thread of its own, for as long as somebody waits for it."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from server.catalogue import Catalogue, Entry, ModelName
from server.catalogue.files import sha256_of
from server.catalogue.hub import (
    HOSTS,
    Abandoned,
    HubFile,
    HubUnreachable,
    Source,
    fetch,
    find_file,
    source_of,
    verify,
)
from server.catalogue.known import find_known
from server.domain.errors import InvalidRequest, ModelNotFound, RequestCancelled, ServiceError
from server.service.fleet import Fleet

logger = logging.getLogger("llm-optimizer")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """A line about work under way: ``digest`` is of the file that ``completed_bytes`` of ``total_bytes``
    are here of."""

    status: str
    digest: str = ""
    total_bytes: int = 0
    completed_bytes: int = 0


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


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be installed: under ``name``, and if the request used another one, under ``asked`` too.

    ``source`` None: nobody knows where it comes from, but it is here.
    """

    name: ModelName
    asked: ModelName
    source: Source | None


class _Job:
    """One download, and who waits for it."""

    def __init__(self, order: _Order) -> None:
        self.order = order
        self.asked = [order.asked]
        self.followers: set[Follower] = set()
        self.stopped = False
        self._loop = asyncio.get_running_loop()
        self._latest: Progress | None = None

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
        self._loop.call_soon_threadsafe(self.tell, progress)


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
        order = self._order(ModelName.parse(text), text)
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
            job.tell(RequestCancelled("the service is stopping"))

    def _order(self, asked: ModelName, text: str) -> _Order:
        known = find_known(self._catalogue.known, asked)
        name = asked if known is None else known.model_name
        source = None if asked.is_remote else source_of(asked, known)
        if source is None and (asked.is_remote or self._catalogue.look_up(asked) is None):
            names = ", ".join(model.name for model in self._catalogue.known)
            raise ModelNotFound(
                text,
                f"model '{text}' not found: there is nowhere to pull it from. Known names: {names}; "
                f"others come from the hub as {HOSTS[0]}/ORG/REPO or {HOSTS[0]}/ORG/REPO:QUANT",
            )
        return _Order(name, asked, source)

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
        job.tell(Progress("pulling manifest"))
        entry = self._catalogue.look_up(job.order.name)
        here = entry.settings.path if entry is not None and entry.settings.path.is_file() else None
        file = await self._find(job, installed=here is not None and self._has_all(job.asked))
        if file is None:
            return
        if entry is not None and here is not None and await _is_same(job, here, file, entry):
            job.tell(_layer(file, file.size_bytes))
            target = here
        else:
            self._refuse_to_replace(entry, here)
            target = self._catalogue.path_for(job.order.name, file.sha256)
            await self._bring(job, file, target)
        job.tell(Progress("writing manifest"))
        async with self._changing:
            await self._record(job, entry, file, target)

    async def _find(self, job: _Job, *, installed: bool) -> HubFile | None:
        """The hub's file; None where what is installed has to do."""
        source = job.order.source
        if source is None:
            return None
        try:
            return await _on_own_thread(lambda: find_file(source))
        except HubUnreachable as error:
            if not installed:
                raise
            logger.warning("pull of %s: %s", job.order.name.display, error)
            job.tell(Progress("the hub cannot be reached; keeping what is installed"))
            return None

    def _has_all(self, names: Sequence[ModelName]) -> bool:
        return all(self._catalogue.look_up(name) is not None for name in names)

    def _refuse_to_replace(self, entry: Entry | None, here: Path | None) -> None:
        if entry is not None and entry.is_configured and here is not None:
            raise InvalidRequest(
                f"{entry.section}.path = {here} is another file than the hub's; "
                f"delete it first, or let {entry.section}.path name a file that is not there yet"
            )

    async def _bring(self, job: _Job, file: HubFile, target: Path) -> None:
        def tell(here_bytes: int) -> None:
            job.tell_from_thread(_layer(file, here_bytes))

        await _on_own_thread(lambda: fetch(file, target, tell))
        job.tell(Progress("verifying sha256 digest"))
        await _on_own_thread(lambda: verify(file, target, lambda done_bytes: _check_wanted(job)))

    async def _record(self, job: _Job, entry: Entry | None, file: HubFile, target: Path) -> None:
        name = job.order.name
        if entry is None or not entry.is_configured:
            recipe = self._catalogue.recipe_of(name)
            record = await asyncio.to_thread(
                self._catalogue.record_of_file, name, target, str(file), recipe=recipe, sha256=file.sha256
            )
            changed = entry is not None and entry.record is not None and entry.record.sha256 != file.sha256
            if entry is not None and entry.role is None and changed:
                await self._fleet.forget(entry)
            self._catalogue.add(record)
        installed = self._catalogue.find(name.display)
        for asked in job.asked:
            if not asked.is_same_as(name):
                record = self._catalogue.record_over(installed, asked, installed.recipe, str(file))
                self._catalogue.add(record)


def _layer(file: HubFile, here_bytes: int) -> Progress:
    digest = f"sha256:{file.sha256}"
    return Progress(f"pulling {file.sha256[:12]}", digest, file.size_bytes, here_bytes)


async def _is_same(job: _Job, here: Path, file: HubFile, entry: Entry) -> bool:
    """Whether the installed file is the hub's; reads all of it where no record has its digest."""
    if (await asyncio.to_thread(here.stat)).st_size != file.size_bytes:
        return False
    if entry.record is not None and entry.record.sha256 is not None:
        return entry.record.sha256 == file.sha256
    job.tell(Progress("verifying sha256 digest"))
    digest = await _on_own_thread(lambda: sha256_of(here, lambda done_bytes: _check_wanted(job)))
    return digest == file.sha256


def _check_wanted(job: _Job) -> None:
    if job.stopped or not job.followers:
        raise Abandoned


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
