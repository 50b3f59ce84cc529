"""What an engine has done so far, counted where it happens."""

from bisect import bisect_left
from dataclasses import dataclass, field, fields
from typing import Any

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class Histogram:
    """Counts of durations: ``counts[i]`` are those up to ``bounds[i]`` seconds, the last all longer ones."""

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total_s: float = 0.0
    longest_s: float = 0.0

    def see(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total_s += seconds
        self.longest_s = max(self.longest_s, seconds)

    def plus(self, other: "Histogram") -> "Histogram":
        """Both together; the bounds must be the same."""
        return Histogram(
            self.bounds,
            [mine + its for mine, its in zip(self.counts, other.counts, strict=True)],
            self.total_s + other.total_s,
            max(self.longest_s, other.longest_s),
        )


@dataclass(slots=True)
class Figures:
    """Totals since the engine was loaded. The engine's thread writes, anyone may read.

    ``prompt_tokens`` came in, of which ``cached_tokens`` need not be read, and ``restored_tokens`` of these
    came back from host memory or disk; ``read_tokens`` went through the model, more often than once
    where an answer had to make room for another. ``guessed_tokens`` were proposed as drafts.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    restored_tokens: int = 0
    read_tokens: int = 0
    generated_tokens: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0
    steps: int = 0
    evictions: int = 0
    sent_back: int = 0
    queue_s: Histogram = field(default_factory=Histogram)
    first_token_s: Histogram = field(default_factory=Histogram)
    gap_s: Histogram = field(default_factory=Histogram)

    def plus(self, other: "Figures") -> "Figures":
        """Both together."""
        return Figures(
            **{part.name: _sum(getattr(self, part.name), getattr(other, part.name)) for part in fields(self)}
        )


def _sum(one: Any, other: Any) -> Any:
    return one.plus(other) if isinstance(one, Histogram) else one + other
