"""Which models are loaded where: loading, keeping alive, making room, growing, unloading."""

import asyncio
import contextlib
import datetime
import logging
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from server.catalogue import Catalogue, Entry, Installed
from server.config import Current
from server.domain.errors import (
    InvalidRequest,
    ModelLoadFailed,
    NotSupported,
    QueueFull,
    ServiceError,
    Stopping,
)
from server.engine.llamacpp.library import Library
from server.engine.pace import Speed
from server.gpu.guard import Sight
from server.gpu.nvml import Nvml
from server.service.answering import Answerer
from server.service.berths import Arriving, Berth, Resident
from server.service.crashes import Crashes
from server.service.devices import Devices, Seen
from server.service.elsewhere import Elsewhere
from server.service.faults import Faults
from server.service.gate import Gate
from server.service.loaded import Loaded, LoadedEmbedder
from server.service.loading import DiskCache, Loader
from server.service.placement import NoRoom, Placements
from server.service.risks import Risks
from server.service.room import Idle, who_must_go
from server.service.tally import Tally

if TYPE_CHECKING:
    from server.service.rpc import Rpc

logger = logging.getLogger("llm-optimizer")


class Fleet:
    """All engines of the service. Belongs to the event loop; what blocks runs in threads."""

    def __init__(
        self,
        catalogue: Catalogue,
        library: Library,
        nvml: Nvml,
        *,
        current: Current,
        disk_cache: DiskCache,
        crashes: Crashes,
        rpc: "Rpc | None" = None,
    ) -> None:
        """``rpc`` None: each model has one device."""
        self._catalogue = catalogue
        devices = Devices(library, nvml)
        self._rpc = rpc
        self._placements = Placements(devices) if rpc is None else rpc.placements(devices)
        risks, lending = Risks(crashes, devices), None if rpc is None else rpc.servers.lending
        self._loader = Loader(catalogue, library, self._placements, disk_cache, risks, lending=lending)
        self._current = current
        self._berths: dict[str, Berth] = {}
        self._departing: set[Berth] = set()
        self._devices: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.gate = Gate()
        self.faults = Faults()
        self.tally = Tally()
        self.elsewhere = Elsewhere(catalogue, self.tally, self.faults)
        for crash in crashes.look_back():
            self.faults.add("service", str(crash), crash.at)
        self._loss = None
        if rpc is not None:
            self._loss = rpc.loss(self.faults, self.beats, self._answering)
            for lost in rpc.servers.look_back():
                self.faults.add("service", str(lost), lost.at)

    @contextlib.asynccontextmanager
    async def lease(
        self,
        entry: Entry,
        *,
        context_tokens: int | None = None,
        keep_alive_s: float | None = None,
        waits: bool = True,
    ) -> AsyncIterator[Answerer]:
        """The model, ready to work for as long as the block lasts; its keep-alive clock starts after it.

        ``context_tokens`` is the window that the request asks for: the model's grows if it may. ``waits``:
        while the device is short of memory, for a while.

        Raises:
            QueueFull: as many requests as its settings allow have it, or wait for it.
            DeviceShort: the device stays short of memory.
            ModelLoadFailed: with the reason.
            InvalidRequest: it is a model for embeddings.
            RemoteAway: another server runs it, and cannot be reached.
        """
        remote = self.elsewhere.of(entry)
        if remote is not None:
            self._refuse_when_closed()
            remote.refuse_when_full()
            yield remote
            return
        async with self.lease_local(entry, context_tokens, keep_alive_s, waits=waits) as loaded:
            yield loaded

    @contextlib.asynccontextmanager
    async def lease_local(
        self,
        entry: Entry,
        context_tokens: int | None = None,
        keep_alive_s: float | None = None,
        *,
        waits: bool = True,
    ) -> AsyncIterator[Loaded]:
        """The same for whoever needs the vocabulary itself.

        Raises:
            NotSupported: another server runs the model.
        """
        self._refuse_elsewhere(entry)
        self._refuse_when_full(entry)
        await self._gate_passed(entry, waits=waits)
        async with self._held(entry, context_tokens, keep_alive_s) as loaded:
            if not isinstance(loaded, Loaded):
                raise InvalidRequest(f'"{entry.name.display}" does not support chat: it is for embeddings')
            yield loaded

    @contextlib.asynccontextmanager
    async def lease_embedder(
        self, entry: Entry, *, keep_alive_s: float | None = None
    ) -> AsyncIterator[LoadedEmbedder]:
        """The same for a model that turns texts into vectors.

        Raises:
            QueueFull: as many requests as its settings allow have it, or wait for it.
            DeviceShort: the device stays short of memory.
            ModelLoadFailed: with the reason.
            InvalidRequest: it is none.
        """
        self._refuse_when_full(entry)
        await self._gate_passed(entry, waits=True)
        async with self._held(entry, None, keep_alive_s) as loaded:
            if not isinstance(loaded, LoadedEmbedder):
                raise InvalidRequest(f'"{entry.name.display}" does not support embeddings')
            yield loaded

    async def load(
        self, entry: Entry, *, context_tokens: int | None = None, keep_alive_s: float | None = None
    ) -> None:
        """Load a model, if it is not and does not run elsewhere, and start its keep-alive clock."""
        if self.elsewhere.of(entry) is None:
            async with self._held(entry, context_tokens, keep_alive_s):
                pass

    def unload(self, entry: Entry) -> None:
        """Unload a model once nobody uses it; returns at once."""
        berth = self._berths.get(entry.weights)
        if berth is None:
            return
        berth.keep_alive_s = 0
        if berth.users == 0:
            berth.start_clock()

    async def forget(self, entry: Entry) -> None:
        """Give up a model's berth: its file goes, or becomes another. Requests under way run to their end."""
        berth = self._berths.pop(entry.weights, None)
        if berth is None:
            return
        self._departing.add(berth)
        berth.keep_alive_s = 0
        berth.stop_clock()
        await self._drop_if_unused(berth)

    def at_work(self, entry: Entry) -> Installed | None:
        """What is loaded for a model, whatever became of its file since; None: nothing."""
        berth = self._berths.get(entry.weights)
        loaded = None if berth is None else berth.loaded
        return None if loaded is None else Installed(entry, loaded.installed.file)

    async def inspect(self, entry: Entry) -> Installed:
        """What the model's file says of itself; a thread reads it where that is not known yet."""
        known = self.at_work(entry) or self._catalogue.glance(entry)
        return await asyncio.to_thread(self._catalogue.inspect, entry) if known is None else known

    def speed_of(self, entry: Entry) -> Speed:
        """How fast a model was lately, as far as it is loaded, or runs elsewhere, and generates."""
        remote = self.elsewhere.of(entry)
        if remote is not None:
            return remote.speed
        berth = self._berths.get(entry.weights)
        loaded = None if berth is None else berth.loaded
        return loaded.engine.speed if isinstance(loaded, Loaded) else Speed()

    def residents(self) -> tuple[Resident, ...]:
        """The loaded models, the one that stays longest first."""
        berths = tuple(self._berths.values())
        found = [resident for berth in berths if (resident := berth.resident) is not None]
        forever = datetime.datetime.max.replace(tzinfo=datetime.UTC)
        return tuple(sorted(found, key=lambda resident: resident.expires_at or forever, reverse=True))

    def arriving(self) -> tuple[Arriving, ...]:
        """The models that requests are waiting for."""
        parts = self._loader.progress()
        wanted = [berth for berth in self._berths.values() if berth.loaded is None and berth.users]
        known = [(berth, self._catalogue.glance(berth.entry)) for berth in wanted]
        return tuple(
            Arriving(installed, parts.get(berth.name, 0.0), berth.users)
            for berth, installed in known
            if installed is not None
        )

    def loading(self) -> Mapping[str, float]:
        """Models that are being loaded, with the part of their weights that is there."""
        return self._loader.progress()

    def beats(self) -> dict[str, float]:
        """What changes with every step of a model that works, or is being loaded; idle ones are left out."""
        working = {
            berth.name: berth.loaded.engine.beats
            for berth in self._berths.values()
            if berth.loaded is not None
        }
        at_work = {name: float(beats) for name, beats in working.items() if beats is not None}
        return at_work | {f"loading {name}": part for name, part in self._loader.progress().items()}

    async def sight(self) -> Sight:
        """The devices that models are on, and what is wrong with the cards."""
        margins: dict[str, int] = {}
        for berth in self._berths.values():
            if berth.loaded is not None:
                margin_bytes = berth.loaded.placement.plan.margin_bytes
                for device in berth.entry.settings.places_here:
                    margins[device] = max(margins.get(device, 0), margin_bytes)
        return await asyncio.to_thread(self._placements.devices.sight, margins)

    async def spill(self, device: str) -> None:
        """Finished conversations on ``device`` go to host memory."""
        for berth in self._berths.values():
            if device in berth.entry.settings.places and isinstance(berth.loaded, Loaded):
                berth.loaded.engine.spill()

    async def leave(self, device: str, wanted_bytes: int) -> None:
        """Models that nobody uses leave ``device``: as many as free ``wanted_bytes``, or all."""
        idle = self._idle_on(device)
        leaving = who_must_go(wanted_bytes, idle) or [model.weights for model in idle]
        await self._make_room([self._berths[weights] for weights in leaving], "its device is short of memory")

    @property
    def lost(self) -> Mapping[str, str]:
        """Models whose rpc servers ended the service, until they are loaded again, and why."""
        return {} if self._rpc is None else {model: str(one) for model, one in self._rpc.lost.items()}

    def seen(self) -> Seen:
        """The last look at the cards, which :meth:`sight` takes each second; returns at once."""
        return self._placements.devices.seen()

    async def close(self) -> None:
        """Unload everything; requests under way end with an error, and no new ones are taken."""
        self._closed = True
        await self.elsewhere.close()
        self._loader.stop()
        for berth in (*self._berths.values(), *self._departing):
            berth.stop_clock()
            async with berth.lock:
                await self._drop(berth)
        if self._loss is not None:
            await self._loss.close()

    @contextlib.asynccontextmanager
    async def _held(
        self, entry: Entry, context_tokens: int | None, keep_alive_s: float | None
    ) -> AsyncIterator[Loaded | LoadedEmbedder]:
        self._refuse_when_closed()
        berth = self._berths.setdefault(
            entry.weights, Berth(entry, self._expire, entry.settings.keep_alive_s)
        )
        berth.enter(keep_alive_s)
        try:
            # A client that hangs up must not leave a half-loaded model behind.
            await asyncio.shield(self._spawn(self._make_ready(berth, entry, context_tokens)))
            if berth.loaded is None:
                raise ModelLoadFailed(f"model '{entry.name.display}' was unloaded just now, try again")
            yield berth.loaded
        finally:
            berth.leave()

    async def _make_ready(self, berth: Berth, entry: Entry, context_tokens: int | None) -> None:
        async with berth.lock:
            if berth.loaded is not None and berth.loaded.engine.state.fault:
                fault = berth.loaded.engine.state.fault
                logger.warning("%s is loaded again: %s", berth.name, fault)
                await self._drop(berth)
            if berth.loaded is None:
                berth.entry = self._catalogue.in_memory(entry)
                async with self._locked(entry):
                    self._refuse_when_closed()
                    berth.loaded = await self._load(berth)
                    self.tally.begin(berth.name, berth.loaded.engine.figures)
            if isinstance(berth.loaded, Loaded):
                await self._grow(berth.loaded, context_tokens)
        # Whoever asked may have hung up while the model was loading.
        berth.start_clock()

    async def _load(self, berth: Berth) -> Loaded | LoadedEmbedder:
        """Load into the berth's device, whose lock is held.

        Idle models make room if need be; only if that is not enough, the model has to do with less.
        """
        settings, whole = berth.entry.settings, True
        if self._loss is not None and settings.rpc_servers:
            self._loss.arm(berth.name, settings.rpc_patience_s)
        while True:
            try:
                return await asyncio.to_thread(self._loader.load, berth.entry, whole=whole)
            except NoRoom as refusal:
                leaving = who_must_go(refusal.missing_bytes, self._idle_on(refusal.device or settings.device))
                if not leaving and not whole:
                    raise
                whole = whole and bool(leaving)
            # What was planned for them is not exactly what they took: then the next look says so.
            reason = f"to make room for {berth.name}"
            await self._make_room([self._berths[weights] for weights in leaving], reason)

    def _idle_on(self, device: str) -> list[Idle]:
        return [
            Idle(
                weights,
                berth.loaded.placement.freed_on(device),
                berth.last_used_s,
                stays=berth.entry.role is not None and math.isinf(berth.keep_alive_s),
            )
            for weights, berth in self._berths.items()
            if berth.is_idle and berth.loaded is not None and device in berth.entry.settings.places
        ]

    async def _make_room(self, leaving: Sequence[Berth], reason: str) -> None:
        # All are taken before anything is waited for: from here on a request loads them anew.
        taken = [(berth, berth.take()) for berth in leaving]
        for berth, loaded in taken:
            if loaded is not None:
                await self._unload(berth, loaded)
                logger.info("%s unloaded: %s", berth.name, reason)

    async def _grow(self, loaded: Loaded, context_tokens: int | None) -> None:
        """Give a request the window that it asks for, if model, settings and memory allow it."""
        largest = self._current.router.max_ctx_size
        wanted = min(context_tokens or 0, loaded.installed.header.context_length or largest, largest)
        if wanted <= loaded.context_tokens:
            return
        name = loaded.installed.entry.name.display
        try:
            async with self._locked(loaded.installed.entry):
                await asyncio.to_thread(self._loader.grow, loaded, wanted)
        except ServiceError as error:
            logger.warning("%s keeps its context of %d tokens: %s", name, loaded.context_tokens, error)
            return
        logger.info("%s: context grown to %d tokens, as a request asked", name, loaded.context_tokens)

    async def _drop(self, berth: Berth) -> None:
        loaded = berth.take()
        self._departing.discard(berth)
        if loaded is not None:
            await self._unload(berth, loaded)
            logger.info("%s unloaded", berth.name)

    async def _unload(self, berth: Berth, loaded: Loaded | LoadedEmbedder) -> None:
        """Close an engine, and see whether its device's memory comes back."""
        devices, placement = self._placements.devices, loaded.placement
        before = await asyncio.to_thread(devices.free_on_gpu, placement.device)
        await asyncio.to_thread(loaded.engine.close)
        self.tally.end(loaded.engine.figures)
        if self._rpc is not None:
            self._rpc.servers.give_back(berth.name)
        taken_bytes = placement.taken_on(berth.entry.settings.device)
        kept = await asyncio.to_thread(devices.kept_back, placement.device, taken_bytes, before)
        if kept is not None:
            name = berth.name
            logger.warning("%s: %s", name, kept)
            self.faults.add(name, kept)

    def _expire(self, berth: Berth) -> None:
        self._spawn(self._drop_if_unused(berth))

    async def _drop_if_unused(self, berth: Berth) -> None:
        async with berth.lock:
            if berth.users == 0:
                await self._drop(berth)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` to its end, whoever waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        return task

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # Who waited for it has got its error; if nobody waits any more, nobody needs it.
        if not task.cancelled():
            task.exception()

    async def _gate_passed(self, entry: Entry, *, waits: bool) -> None:
        for device in entry.settings.places:
            await self.gate.passed(device, waits=waits)

    @contextlib.asynccontextmanager
    async def _locked(self, entry: Entry) -> AsyncIterator[None]:
        """Nobody else takes memory of the model's devices meanwhile."""
        async with contextlib.AsyncExitStack() as stack:
            # In one order for all, so that no two models wait for each other.
            for device in sorted(entry.settings.places):
                await stack.enter_async_context(self._devices[device])
            yield

    def _answering(self) -> int:
        """How many answers are under way."""
        loaded = [berth.loaded for berth in self._berths.values() if berth.loaded is not None]
        return sum(one.engine.state.running + one.engine.state.queued for one in loaded)

    def _refuse_when_full(self, entry: Entry) -> None:
        """Here and not only in the engine: a model that is still loading has a queue, too."""
        berth = self._berths.get(entry.weights)
        settings = entry.settings
        if berth is not None and berth.users >= settings.slots + settings.queue:
            raise QueueFull

    def _refuse_elsewhere(self, entry: Entry) -> None:
        if self.elsewhere.of(entry) is not None:
            raise NotSupported(
                f"{entry.name.display} runs at {entry.settings.where}: its vocabulary is not here"
            )

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Stopping
