"""A model's place in memory, with its users and its clock, and how it looks from outside."""

import asyncio
import datetime
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.catalogue import Entry, Installed
from server.engine.figures import Figures
from server.engine.looks import CacheTiers, EngineState
from server.service.loaded import Loaded, LoadedEmbedder
from server.service.placement import Placement


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model, as the outside sees it. ``expires_at`` None: it stays."""

    installed: Installed
    placement: Placement
    expires_at: datetime.datetime | None
    state: EngineState
    figures: Figures
    tiers: CacheTiers


@dataclass(frozen=True, slots=True)
class Arriving:
    """A model that is being loaded, or waits for another on its device. ``part`` of its weights is there,
    and so many requests are ``waiting`` for it."""

    installed: Installed
    part: float
    waiting: int


@dataclass(slots=True, eq=False)
class Berth:
    """A model's place: at most one engine, the requests that use it, and the clock that unloads it.

    Only tasks that hold ``lock`` change ``loaded``, but for one that makes room: it takes what nobody uses
    and nobody is about to use. ``expire`` is called when the clock has run down.
    """

    entry: Entry
    expire: Callable[["Berth"], None]
    keep_alive_s: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: Loaded | LoadedEmbedder | None = None
    users: int = 0
    last_used_s: float = 0.0
    expires_at: datetime.datetime | None = None
    _timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """The model's, as it is shown."""
        return self.entry.name.display

    @property
    def is_idle(self) -> bool:
        """Loaded, and used by nobody."""
        return self.loaded is not None and self.users == 0 and not self.lock.locked()

    @property
    def resident(self) -> Resident | None:
        """What is loaded; None: nothing."""
        loaded = self.loaded
        if loaded is None:
            return None
        engine = loaded.engine
        return Resident(
            loaded.installed, loaded.placement, self._expiry(), engine.state, engine.figures, engine.tiers
        )

    def enter(self, keep_alive_s: float | None) -> None:
        """One more uses it; ``keep_alive_s`` None: what counted before goes on to count."""
        self.users += 1
        self.stop_clock()
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s

    def leave(self) -> None:
        """One less uses it."""
        self.users -= 1
        self.last_used_s = time.monotonic()
        self.start_clock()

    def take(self) -> Loaded | LoadedEmbedder | None:
        """Take out what is loaded; the berth is then as before any request."""
        self.stop_clock()
        loaded, self.loaded = self.loaded, None
        self.keep_alive_s = self.entry.settings.keep_alive_s
        return loaded

    def start_clock(self) -> None:
        """Let what nobody uses expire after ``keep_alive_s``."""
        if self.users:
            return
        if self.loaded is None:
            # A wish for this model's end is not one for the end of the next one.
            self.keep_alive_s = self.entry.settings.keep_alive_s
            return
        self.stop_clock()
        if math.isinf(self.keep_alive_s):
            return
        self.expires_at = _in_seconds(self.keep_alive_s)
        self._timer = asyncio.get_running_loop().call_later(self.keep_alive_s, self.expire, self)

    def stop_clock(self) -> None:
        """Let nothing expire for now."""
        self.expires_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expiry(self) -> datetime.datetime | None:
        """When the model goes. While requests use it, that is counted from now."""
        if self.users == 0 or math.isinf(self.keep_alive_s):
            return self.expires_at
        return _in_seconds(self.keep_alive_s)


def _in_seconds(seconds: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
