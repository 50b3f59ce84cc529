"""From a model's entry to a model in memory. Everything here blocks, and runs in threads."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from server.catalogue import Catalogue, Entry, Installed
from server.chat.template import ChatTemplate
from server.domain.errors import ModelLoadFailed, ServiceError, Stopping
from server.engine.embeddings import Embedder
from server.engine.engine import Engine
from server.engine.llamacpp.library import Library
from server.engine.spec import EngineSpec
from server.service.loaded import Loaded, LoadedEmbedder
from server.service.placement import MIB, Placement, Placements
from server.service.risks import Risk, Risks

if TYPE_CHECKING:
    from server.service.rpc_servers import Server

    Lending = Callable[[str, Sequence[Server]], AbstractContextManager[None]]

logger = logging.getLogger("llm-optimizer")

SLOW_LOAD_S = 2.0
"""From here on one wonders, and the log says how far it is."""


@dataclass(frozen=True, slots=True)
class DiskCache:
    """Where states of prompts are kept across restarts; no folder: nowhere."""

    folder: Path | None
    budget_bytes: int


class Loader:
    """Loads models and lets them grow, after a look at what their devices have free, and at what came of it
    before."""

    def __init__(
        self,
        catalogue: Catalogue,
        library: Library,
        placements: Placements,
        disk_cache: DiskCache,
        risks: Risks,
        *,
        lending: "Lending | None" = None,
    ) -> None:
        self._catalogue = catalogue
        self._library = library
        self._placements = placements
        self._disk_cache = disk_cache
        self._risks = risks
        self._lending = lending
        self._progress: dict[str, float] = {}
        self._stopping = False

    def stop(self) -> None:
        """Give up what is being loaded: the service is stopping."""
        self._stopping = True

    def progress(self) -> Mapping[str, float]:
        """Models that are being loaded, with the part of their weights that is there."""
        return dict(self._progress)

    def load(self, entry: Entry, *, whole: bool = False) -> Loaded | LoadedEmbedder:
        """The model of ``entry`` in the memory of its device; ``whole`` gives up none of its settings.

        Raises:
            NoRoom: the device has too little free memory; nothing was allocated.
            ModelLoadFailed: for any other reason, such as that it ended the service before.
        """
        started_s = time.monotonic()
        installed = self._catalogue.inspect(entry)
        crash = self._risks.last(installed, Risk.LOAD)
        placement = self._placements.place(installed, whole=whole, crash=crash)
        if placement.reduced is not None:
            logger.warning("%s is loaded with less: %s", entry.name.display, placement.reduced)
        with self._lent(entry, placement), self._risks.taking(installed, Risk.LOAD, placement):
            loaded = self._take_place(installed, placement, started_s)
        logger.info(
            "%s loaded on %s in %.1f s: context %d tokens, %d slots",
            entry.name.display,
            placement.split or entry.settings.device,
            time.monotonic() - started_s,
            loaded.context_tokens,
            loaded.engine.state.slots,
        )
        return loaded

    def grow(self, loaded: Loaded, context_tokens: int) -> None:
        """Give a model a larger window.

        Raises:
            ModelLoadFailed: there is no room for it, or it ended the service before; all is as it was.
            EngineFailed: the engine has broken down.
        """
        installed = loaded.installed
        before = (self._risks.last(installed, risk) for risk in Risk)
        crashes = [crash for crash in before if crash is not None]
        placement = self._placements.regrow(installed, loaded.placement, context_tokens, crashes)
        with self._risks.taking(installed, Risk.GROWTH, placement):
            loaded.engine.grow(context_tokens)
        loaded.placement = placement

    def _lent(self, entry: Entry, placement: Placement) -> AbstractContextManager[None]:
        """Other machines' memory, if the model has any, for as long as it is loaded."""
        if self._lending is None or placement.split is None:
            return nullcontext()
        return self._lending(entry.name.display, placement.split.servers)

    def _take_place(
        self, installed: Installed, placement: Placement, started_s: float
    ) -> Loaded | LoadedEmbedder:
        spec = _spec(installed, placement, self._disk_cache)
        if installed.embeds:
            return LoadedEmbedder(installed, Embedder.load(self._library, spec), placement)
        return self._load_to_answer(installed, placement, spec, started_s)

    def _load_to_answer(
        self, installed: Installed, placement: Placement, spec: EngineSpec, started_s: float
    ) -> Loaded:
        name = installed.entry.name.display
        try:
            engine = Engine.load(
                self._library, spec, progress=lambda part: self._note_progress(name, started_s, part)
            )
        except ServiceError:
            if self._stopping:
                raise Stopping from None
            raise
        finally:
            self._progress.pop(name, None)
        try:
            template = ChatTemplate(installed.template, bos=engine.model.bos, eos=engine.model.eos)
        except ServiceError as error:
            engine.close()
            raise ModelLoadFailed(f"{spec.path}: {error}") from error
        return Loaded(installed, engine, template, placement)

    def _note_progress(self, name: str, started_s: float, part: float) -> bool:
        before, self._progress[name] = self._progress.get(name, 0.0), part
        quarter_passed = int(before * 4) < int(part * 4) < 4  # noqa: PLR2004
        if quarter_passed and time.monotonic() - started_s > SLOW_LOAD_S:
            logger.info("%s: %.0f %% loaded", name, part * 100)
        return not self._stopping


def _spec(installed: Installed, placement: Placement, disk_cache: DiskCache) -> EngineSpec:
    settings, tuning = installed.entry.settings, placement.tuning
    return EngineSpec(
        path=settings.path,
        device=placement.device,
        context_tokens=tuning.context,
        gpu_layers=tuning.gpu_layers,
        kv_type=tuning.kv_type,
        flash_attention=settings.flash_attention,
        threads=settings.threads,
        slots=settings.slots,
        queue=settings.queue,
        batch_tokens=tuning.batch,
        stall_s=settings.stall_ms / 1000,
        draft_tokens=tuning.draft,
        digest=installed.file.fingerprint,
        host_cache_bytes=settings.host_cache_mib * MIB,
        cache_dir=disk_cache.folder,
        disk_cache_bytes=disk_cache.budget_bytes,
        shares=() if placement.split is None else placement.split.shares,
    )
