"""What is computed from measured figures: ratios with their spread, and verdicts. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

PLAN_PART, PLAN_BYTES = 0.03, 64 * 2**20
"""The larger one is what a memory plan may be off."""


def plan_is_near(planned_bytes: int, real_bytes: int) -> bool:
    """Whether a memory plan is as near as it has to be."""
    return abs(planned_bytes - real_bytes) <= max(PLAN_PART * real_bytes, PLAN_BYTES)


class Better(Enum):
    """Which way a figure should go."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Bar:
    """How our figure, divided by the other one, must turn out."""

    better: Better
    ratio: float

    def is_met(self, ratio: float) -> bool:
        """Whether ``ratio`` is on the right side of the bar."""
        return ratio >= self.ratio if self.better is Better.HIGHER else ratio <= self.ratio

    def __str__(self) -> str:
        return f"{'≥' if self.better is Better.HIGHER else '≤'} {self.ratio:.2f}"


@dataclass(frozen=True)
class Spread:
    """Quartiles of a row of figures."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The quartiles; of one value all three are that value. Raises ValueError for none."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        if not values:
            raise ValueError("no figures")
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


@dataclass(frozen=True)
class Measured:
    """One figure of each repetition, ours and llama-server's.

    ``against`` is what ours are divided by where that is not ``theirs``. ``notes`` are facts for the
    reader: what was taken as the best setting, how many repetitions had to be run again.
    """

    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    against: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Median of ours divided by the median of what it is compared with."""
        return statistics.median(self.ours) / statistics.median(self._compared_with)

    @property
    def ratios(self) -> Spread:
        """Quartiles of the ratios of the single repetitions."""
        return Spread.of([mine / other for mine, other in zip(self.ours, self._compared_with, strict=True)])

    @property
    def _compared_with(self) -> tuple[float, ...]:
        return self.theirs if self.against is None else self.against
