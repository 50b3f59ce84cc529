"""How many cores other programs leave to an engine.

llama.cpp divides each step among its threads, and all wait for the slowest. Where one has to share
its core with another busy program, the others spin in vain: on two cores that makes 23 tokens a second
or fewer of 100, and one thread alone gives 60.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PERIOD_S = 0.5
_TAKEN = 0.6
"""From this share on, a core counts as taken: a client that reads its answer does not take one."""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since some start: of the clock, of all cores that worked, and of this process on them."""

    clock_s: float
    busy_s: float
    own_s: float


def threads_beside(before: CpuTimes, now: CpuTimes, cores: int, most: int) -> int:
    """How many threads find a core of their own, from 1 to ``most``."""
    wall_s = max(now.clock_s - before.clock_s, 1e-9)
    others = max(now.busy_s - before.busy_s - (now.own_s - before.own_s), 0.0) / wall_s
    taken = int(others + 1 - _TAKEN)
    return max(min(most, cores - taken), 1)


class CoreWatch:
    """Looks now and then how many threads should compute. Belongs to the engine's thread."""

    def __init__(self, most: int, read: Callable[[], CpuTimes | None] | None = None) -> None:
        self._most = most
        self._cores = os.cpu_count() or 1
        self._read = read or read_cpu_times
        self._before: CpuTimes | None = None

    def rest(self) -> None:
        """The engine is idle: what others do meanwhile says nothing of how it will be."""
        self._before = None

    def threads(self) -> int | None:
        """How many threads should compute from now on; None: it is not time yet, or nobody can tell."""
        before = self._before
        if before is None:
            self._before = self._read()
            return self._most
        if time.monotonic() - before.clock_s < _PERIOD_S:
            return None
        self._before = now = self._read()
        return None if now is None else threads_beside(before, now, self._cores, self._most)


def read_cpu_times() -> CpuTimes | None:
    """What the kernel counts; None where it is no Linux."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _wait, interrupts, soft_interrupts, stolen = map(int, fields[:8])
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return CpuTimes(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())
