"""What is done about a device whose memory runs short while models work: pure.

A CUDA allocation that fails ends the whole process, so something has to give way before: first what is about
to begin, then what nobody waits for, then what can be had again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

SHORT_SHARE = 0.5
"""Of the margin: with less free memory something gives way. The other half is for what CUDA itself takes
while models work."""

CALM_SHARE = 0.75
"""With so much of it all comes back; in between everything stays as it is."""


class Level(IntEnum):
    """How far it has come. Each holds what those before it hold."""

    CALM = 0
    WAIT = 1
    """New work waits."""
    REST = 2
    """What nobody waits for stops."""
    SPILL = 3
    """Finished conversations go to host memory."""
    LEAVE = 4
    """Models that nobody uses are unloaded."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A device with models on it: what is free, and what should be. ``free_bytes`` None: nobody knows.

    ``fault``: why it cannot be used at all.
    """

    free_bytes: int | None
    margin_bytes: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """One look: the devices by name as the settings write them, and what is wrong with whichever card."""

    devices: Mapping[str, Watched]
    faults: Mapping[str, str]


def next_level(level: Level, free_bytes: int | None, margin_bytes: int) -> Level:
    """One level further for each look that finds too little; back at once when there is enough.

    Nobody can act on what is not known: then all is as usual.
    """
    if free_bytes is None or free_bytes >= CALM_SHARE * margin_bytes:
        return Level.CALM
    if free_bytes < SHORT_SHARE * margin_bytes:
        return Level(min(level + 1, Level.LEAVE))
    return level


def missing_bytes(free_bytes: int, margin_bytes: int) -> int:
    """What has to come back for the whole margin."""
    return max(margin_bytes - free_bytes, 0)
