"""How the parts of the check run: one after the other, within a time, whatever becomes of the one before."""

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from bench.gpu_check.report import Finding, Status

LEAST_S = 5
MIB = 2**20


class CannotRun(Exception):
    """The check cannot begin, or not end as it was told to; the text says why, and what to do."""


class Skipped(Exception):
    """A part cannot be run here; the text says why."""


class Faulty(Exception):
    """A part found a fault. ``figures`` as in a finding."""

    def __init__(self, said: str, **figures: float | str | None) -> None:
        super().__init__(said)
        self.figures = figures


@dataclass(frozen=True, slots=True)
class Found:
    """A part found what it should."""

    said: str
    figures: Mapping[str, float | str | None]


Part = Callable[[], Found]


class Clock:
    """What is left of the time that the whole check may take."""

    def __init__(self, limit_s: float) -> None:
        self._end_s = time.monotonic() + limit_s

    @property
    def left_s(self) -> float:
        """Seconds; never so few that a time limit of them would be none."""
        return max(self._end_s - time.monotonic(), 0.1)


class Findings:
    """Runs parts and keeps what they find; each is told as soon as it is known."""

    def __init__(self, clock: Clock, tell: Callable[[Finding], None]) -> None:
        self.clock = clock
        self.all: list[Finding] = []
        self._tell = tell

    def run(self, name: str, part: Part) -> bool:
        """Whether it went well. What the part raises becomes its finding."""
        self._add(self._finding(name, part))
        return self.all[-1].status is Status.OK

    def skip(self, name: str, why: str) -> None:
        """Note a part that was not run."""
        self._add(Finding(name, Status.SKIPPED, why))

    def _finding(self, name: str, part: Part) -> Finding:
        if self.clock.left_s < LEAST_S:
            return Finding(name, Status.SKIPPED, "the time is up")
        try:
            found = part()
        except Skipped as reason:
            return Finding(name, Status.SKIPPED, str(reason))
        except Faulty as fault:
            return Finding(name, Status.FAULT, str(fault), fault.figures)
        except (httpx.HTTPError, OSError, subprocess.SubprocessError) as error:
            return Finding(name, Status.FAULT, f"{type(error).__name__}: {error}")
        return Finding(name, Status.OK, found.said, found.figures)

    def _add(self, finding: Finding) -> None:
        self.all.append(finding)
        self._tell(finding)


def mib(size_bytes: float) -> str:
    """``1426 MiB``."""
    return f"{size_bytes / MIB:.0f} MiB"
