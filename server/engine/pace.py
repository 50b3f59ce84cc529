"""How long the engine's steps take, learnt while it works: pure arithmetic on what was measured."""

from dataclasses import dataclass, field

_NEWEST = 0.1
"""Weight of the newest step against all earlier ones of its size."""

_ROW_SHARE = 0.3
"""A further row's share of the smallest step that is known, until a larger one was seen."""


@dataclass(slots=True)
class StepCost:
    """Seconds of a generating step by its number of rows.

    A table, not a line: on a processor two rows cost nearly twice as much as one, and ten twice as much
    as three.
    """

    _seconds: dict[int, float] = field(default_factory=dict)

    def see(self, rows: int, seconds: float) -> None:
        """Learn from one step."""
        before = self._seconds.get(rows)
        self._seconds[rows] = seconds if before is None else before + _NEWEST * (seconds - before)

    def of(self, rows: int) -> float:
        """Expected seconds of a step of ``rows``; 0.0 before the first was seen."""
        if rows in self._seconds or not self._seconds:
            return self._seconds.get(rows, 0.0)
        below = max((known for known in self._seconds if known < rows), default=None)
        above = min((known for known in self._seconds if known > rows), default=None)
        if below is None:
            return self._seconds[above or rows]
        if above is None:
            return self._seconds[below] + _ROW_SHARE * self._smallest() * (rows - below)
        part = (rows - below) / (above - below)
        return self._seconds[below] + part * (self._seconds[above] - self._seconds[below])

    def _smallest(self) -> float:
        return self._seconds[min(self._seconds)]


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that an engine took lately: for a prompt token, and for a generated one of a single answer.

    None: it has done too little to tell.
    """

    read_s: float | None = None
    write_s: float | None = None


@dataclass(slots=True)
class ReadingPace:
    """Seconds that a prompt token takes to be read."""

    per_token: float | None = None

    def see(self, tokens: int, seconds: float) -> None:
        """Learn from a step that read so many tokens in so many seconds beyond what its streams took."""
        measured = max(seconds, 0.0) / tokens
        # Half of the old: prompts grow while they are read, and each piece is slower than the one before.
        self.per_token = measured if self.per_token is None else (self.per_token + measured) / 2

    def tokens_in(self, seconds: float, *, least: int, most: int) -> int:
        """How many tokens can be read in so many seconds; ``least`` as long as nothing is known."""
        if self.per_token is None:
            return least
        return min(max(int(seconds / max(self.per_token, 1e-9)), least), most)
