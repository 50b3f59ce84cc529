"""Which models are loaded where: loading, keeping alive, growing, unloading."""

import asyncio
import contextlib
import datetime
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.catalogue import Catalogue, Entry, Installed, Role
from server.chat.template import ChatTemplate
from server.domain.errors import ModelLoadFailed, RequestCancelled, ServiceError
from server.engine.engine import CacheTiers, Engine, EngineSpec, EngineState
from server.engine.figures import Figures
from server.engine.library import Library
from server.gpu.nvml import GpuReading, Nvml
from server.service.placement import MIB, Placement, Placements

logger = logging.getLogger("llm-optimizer")

SLOW_LOAD_S = 2.0
"""From here on one wonders, and the log says how far it is."""


@dataclass(slots=True)
class Loaded:
    """A model in memory, ready to work."""

    installed: Installed
    engine: Engine
    template: ChatTemplate
    placement: Placement
    load_s: float

    @property
    def context_tokens(self) -> int:
        """The context window as it is now."""
        return self.engine.state.context_tokens


@dataclass(slots=True, eq=False)
class _Berth:
    """A model's place: at most one engine, the requests that use it, and the clock that unloads it.

    Only tasks that hold ``lock`` change ``loaded``.
    """

    entry: Entry
    keep_alive_s: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: Loaded | None = None
    users: int = 0
    expires_at: datetime.datetime | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class DiskCache:
    """Where states of prompts are kept across restarts; no folder: nowhere."""

    folder: Path | None
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model, as the outside sees it. ``expires_at`` None: it stays."""

    installed: Installed
    placement: Placement
    expires_at: datetime.datetime | None
    state: EngineState
    figures: Figures
    tiers: CacheTiers


class Fleet:
    """All engines of the service. Belongs to the event loop; what blocks runs in threads."""

    def __init__(
        self,
        catalogue: Catalogue,
        library: Library,
        nvml: Nvml,
        *,
        max_context_tokens: int,
        disk_cache: DiskCache,
    ) -> None:
        self._library = library
        self._disk_cache = disk_cache
        self._loading: dict[str, float] = {}
        self._catalogue = catalogue
        self._placements = Placements(library, nvml)
        self._max_context_tokens = max_context_tokens
        self._berths: Mapping[Role, _Berth] = {
            entry.role: _Berth(entry, entry.settings.keep_alive_s) for entry in catalogue.entries
        }
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @contextlib.asynccontextmanager
    async def lease(
        self, entry: Entry, *, context_tokens: int | None = None, keep_alive_s: float | None = None
    ) -> AsyncIterator[Loaded]:
        """The model, loaded, for as long as the block lasts; its keep-alive clock starts after it.

        ``context_tokens`` is the window that the request asks for: the model's grows if it may.

        Raises:
            ModelLoadFailed: with the reason.
        """
        if self._closed:
            raise RequestCancelled("the service is stopping")
        berth = self._berths[entry.role]
        berth.users += 1
        self._stop_clock(berth)
        if keep_alive_s is not None:
            berth.keep_alive_s = keep_alive_s
        try:
            # A client that hangs up must not leave a half-loaded model behind.
            await asyncio.shield(self._spawn(self._make_ready(berth, context_tokens)))
            if berth.loaded is None:
                raise ModelLoadFailed(f"model '{entry.name.display}' was unloaded just now, try again")
            yield berth.loaded
        finally:
            berth.users -= 1
            self._start_clock(berth)

    async def load(
        self, entry: Entry, *, context_tokens: int | None = None, keep_alive_s: float | None = None
    ) -> Loaded:
        """Load a model, if it is not, and start its keep-alive clock."""
        async with self.lease(entry, context_tokens=context_tokens, keep_alive_s=keep_alive_s) as loaded:
            return loaded

    def unload(self, entry: Entry) -> None:
        """Unload a model once nobody uses it; returns at once."""
        berth = self._berths[entry.role]
        berth.keep_alive_s = 0
        if berth.users == 0:
            self._start_clock(berth)

    def residents(self) -> tuple[Resident, ...]:
        """The loaded models, the one that stays longest first."""
        found = [
            Resident(
                berth.loaded.installed,
                berth.loaded.placement,
                _expiry(berth),
                berth.loaded.engine.state,
                berth.loaded.engine.figures,
                berth.loaded.engine.tiers,
            )
            for berth in self._berths.values()
            if berth.loaded is not None
        ]
        forever = datetime.datetime.max.replace(tzinfo=datetime.UTC)
        return tuple(sorted(found, key=lambda resident: resident.expires_at or forever, reverse=True))

    def loading(self) -> Mapping[str, float]:
        """Models that are being loaded, with the part of their weights that is there."""
        return dict(self._loading)

    def gpus(self) -> tuple[GpuReading, ...]:
        """What NVML says of the cards now."""
        return self._placements.gpus()

    @property
    def gpu_fault(self) -> str | None:
        """Why there are no readings, or None."""
        return self._placements.gpu_fault

    async def close(self) -> None:
        """Unload everything; requests under way end with an error, and no new ones are taken."""
        self._closed = True
        for berth in self._berths.values():
            self._stop_clock(berth)
            async with berth.lock:
                await self._drop(berth)

    async def _make_ready(self, berth: _Berth, context_tokens: int | None) -> None:
        async with berth.lock:
            if berth.loaded is not None and berth.loaded.engine.state.fault:
                logger.warning("%s is loaded again: %s", berth.entry.name.display, self._fault(berth))
                await self._drop(berth)
            if berth.loaded is None:
                berth.loaded = await asyncio.to_thread(self._load, berth.entry)
            await self._grow(berth.loaded, context_tokens)
        # Whoever asked may have hung up while the model was loading.
        self._start_clock(berth)

    def _load(self, entry: Entry) -> Loaded:
        started = time.monotonic()
        installed = self._catalogue.inspect(entry)
        placement = self._placements.place(installed)
        settings = entry.settings
        name = entry.name.display
        try:
            engine = Engine.load(
                self._library,
                _spec(installed, placement, self._disk_cache),
                progress=lambda part: self._note_progress(name, started, part),
            )
        finally:
            self._loading.pop(name, None)
        try:
            template = ChatTemplate(installed.template, bos=engine.model.bos, eos=engine.model.eos)
        except ServiceError as error:
            engine.close()
            raise ModelLoadFailed(f"{settings.path}: {error}") from error
        loaded = Loaded(installed, engine, template, placement, time.monotonic() - started)
        logger.info(
            "%s loaded on %s in %.1f s: context %d tokens, %d slots",
            name,
            settings.device,
            loaded.load_s,
            loaded.context_tokens,
            settings.slots,
        )
        return loaded

    def _note_progress(self, name: str, started_s: float, part: float) -> None:
        before, self._loading[name] = self._loading.get(name, 0.0), part
        quarter_passed = int(before * 4) < int(part * 4) < 4  # noqa: PLR2004
        if quarter_passed and time.monotonic() - started_s > SLOW_LOAD_S:
            logger.info("%s: %.0f %% loaded", name, part * 100)

    async def _grow(self, loaded: Loaded, context_tokens: int | None) -> None:
        """Give a request the window that it asks for, if model, settings and memory allow it."""
        trained = loaded.installed.header.context_length or self._max_context_tokens
        wanted = min(context_tokens or 0, trained, self._max_context_tokens)
        if wanted <= loaded.context_tokens:
            return
        name = loaded.installed.entry.name.display
        try:
            placement = self._placements.regrow(loaded.installed, loaded.placement, wanted)
            await asyncio.to_thread(loaded.engine.grow, wanted)
        except ServiceError as error:
            logger.warning("%s keeps its context of %d tokens: %s", name, loaded.context_tokens, error)
            return
        loaded.placement = placement
        logger.info("%s: context grown to %d tokens, as a request asked", name, loaded.context_tokens)

    async def _drop(self, berth: _Berth) -> None:
        loaded, berth.loaded = berth.loaded, None
        berth.keep_alive_s = berth.entry.settings.keep_alive_s
        berth.expires_at = None
        if loaded is not None:
            await asyncio.to_thread(loaded.engine.close)
            logger.info("%s unloaded", berth.entry.name.display)

    async def _drop_if_unused(self, berth: _Berth) -> None:
        async with berth.lock:
            if berth.users == 0 and berth.loaded is not None:
                await self._drop(berth)

    def _start_clock(self, berth: _Berth) -> None:
        if berth.users:
            return
        if berth.loaded is None:
            # A wish for this model's end is not one for the end of the next one.
            berth.keep_alive_s = berth.entry.settings.keep_alive_s
            return
        self._stop_clock(berth)
        if math.isinf(berth.keep_alive_s):
            return
        berth.expires_at = _in_seconds(berth.keep_alive_s)
        loop = asyncio.get_running_loop()
        berth.timer = loop.call_later(berth.keep_alive_s, lambda: self._spawn(self._drop_if_unused(berth)))

    def _stop_clock(self, berth: _Berth) -> None:
        berth.expires_at = None
        if berth.timer is not None:
            berth.timer.cancel()
            berth.timer = None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` to its end, whoever waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # Who waited for it has got its error; if nobody waits any more, nobody needs it.
        if not task.cancelled():
            task.exception()

    def _fault(self, berth: _Berth) -> str | None:
        return berth.loaded.engine.state.fault if berth.loaded else None


def _spec(installed: Installed, placement: Placement, disk_cache: DiskCache) -> EngineSpec:
    settings = installed.entry.settings
    return EngineSpec(
        path=settings.path,
        device=placement.device,
        context_tokens=placement.context_tokens,
        gpu_layers=settings.gpu_layers,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
        threads=settings.threads,
        slots=settings.slots,
        queue=settings.queue,
        batch_tokens=settings.batch,
        stall_s=settings.stall_ms / 1000,
        draft_tokens=settings.draft,
        digest=installed.digest,
        host_cache_bytes=settings.host_cache_mib * MIB,
        cache_dir=disk_cache.folder,
        disk_cache_bytes=disk_cache.budget_bytes,
    )


def _expiry(berth: _Berth) -> datetime.datetime | None:
    """When the model goes. While requests use it, that is counted from now."""
    if berth.users == 0 or math.isinf(berth.keep_alive_s):
        return berth.expires_at
    return _in_seconds(berth.keep_alive_s)


def _in_seconds(seconds: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
