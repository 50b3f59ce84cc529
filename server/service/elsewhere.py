"""The models that other servers run: which there are, and how they are.

What speaks with them is imported only where there is one.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from server.catalogue import Catalogue, Entry, Installed
from server.engine.figures import Figures
from server.service.faults import Faults
from server.service.tally import Tally

if TYPE_CHECKING:
    from server.remote import RemoteModel, RemoteSpec, RemoteState

logger = logging.getLogger("llm-optimizer")

WATCH_S = 30.0
"""So often a server is looked at that nobody asks anything."""

_COUNT = frozenset({"name", "context", "slots", "queue", "policy"})


@dataclass(frozen=True, slots=True)
class Distant:
    """A model that another server runs, as the outside sees it."""

    installed: Installed
    spec: "RemoteSpec"
    state: "RemoteState"
    figures: Figures


class Elsewhere:
    """One client for each model that another server runs. Belongs to the event loop.

    Raises:
        ConfigError: the file of a key cannot be used.
    """

    def __init__(self, catalogue: Catalogue, tally: Tally, faults: Faults) -> None:
        self._catalogue = catalogue
        self._entries = {
            entry.weights: entry for entry in catalogue.configured if entry.settings.is_elsewhere
        }
        self._models = _clients(self._entries, faults)
        self._watching: list[asyncio.Task[None]] = []
        for weights, model in self._models.items():
            tally.begin(self._entries[weights].name.display, model.figures)
            _tell_of_idle_settings(self._entries[weights])

    def of(self, entry: Entry) -> "RemoteModel | None":
        """The client for a model; None: it runs here."""
        return self._models.get(entry.weights)

    def distant(self) -> tuple[Distant, ...]:
        """All of them, as they are."""
        return tuple(
            Distant(self._catalogue.inspect(self._entries[weights]), model.spec, model.state, model.figures)
            for weights, model in self._models.items()
        )

    def start(self) -> None:
        """Look at each server now, and from time to time."""
        self._watching = [asyncio.create_task(self._watch(model)) for model in self._models.values()]

    async def close(self) -> None:
        """Hang up."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for model in self._models.values():
            await model.close()

    async def _watch(self, model: "RemoteModel") -> None:
        known = False
        while True:
            names = await model.look()
            if names and not known and not model.is_among(names):
                logger.warning("%s lists no model %s", model.spec.host, model.spec.model)
            known = known or bool(names)
            await asyncio.sleep(model.state.retry_in_s or WATCH_S)


def _clients(entries: Mapping[str, Entry], faults: Faults) -> "Mapping[str, RemoteModel]":
    if not entries:
        return {}
    from server.service.clients import client_of  # noqa: PLC0415

    return {
        weights: client_of(entry, partial(faults.add, entry.name.display))
        for weights, entry in entries.items()
    }


def _tell_of_idle_settings(entry: Entry) -> None:
    idle = sorted(
        name for name in entry.settings.set_by_user if name not in _COUNT and not name.startswith("remote_")
    )
    if idle:
        names = ", ".join(f"{entry.section}.{name}" for name in idle)
        logger.warning(
            "%s runs at %s: %s have no effect", entry.name.display, entry.settings.remote_url, names
        )
