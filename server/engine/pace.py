"""How long the engine's steps take, learnt while it works: pure arithmetic on what was measured."""

from dataclasses import dataclass

_MEMORY = 0.98
"""Weight of all earlier steps against the newest one."""

_GUESSED_ROW_COST = 0.15
"""A further row's share of a one-row step, until steps of several sizes were seen."""


@dataclass(slots=True)
class StepCost:
    """Seconds of a generating step as a line over its number of rows."""

    _weight: float = 0.0
    _rows: float = 0.0
    _seconds: float = 0.0
    _rows_squared: float = 0.0
    _rows_seconds: float = 0.0

    def see(self, rows: int, seconds: float) -> None:
        """Learn from one step."""
        self._weight = self._weight * _MEMORY + 1
        self._rows = self._rows * _MEMORY + rows
        self._seconds = self._seconds * _MEMORY + seconds
        self._rows_squared = self._rows_squared * _MEMORY + rows * rows
        self._rows_seconds = self._rows_seconds * _MEMORY + rows * seconds

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return self._weight > 0

    def of(self, rows: int) -> float:
        """Expected seconds of a step of ``rows``; 0.0 before the first was seen."""
        if not self.known:
            return 0.0
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        return max(mean_seconds + self.per_row * (rows - mean_rows), 0.0)

    @property
    def per_row(self) -> float:
        """Expected seconds of one row more."""
        if not self.known:
            return 0.0
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        spread = max(self._rows_squared / self._weight - mean_rows**2, 0.0)
        together = self._rows_seconds / self._weight - mean_rows * mean_seconds
        guess = mean_seconds * _GUESSED_ROW_COST / (1 + _GUESSED_ROW_COST * (mean_rows - 1))
        # One square row of the guess: it rules only as long as all steps were about alike.
        return max((together + guess) / (spread + 1), 0.0)


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
