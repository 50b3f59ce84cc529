"""Whether a server that has failed is worth another try: arithmetic on times, without a clock."""

from dataclasses import dataclass

FAILURES = 3
"""So many in a row, and it is left alone for a while."""

FIRST_REST_S, LONGEST_REST_S = 2.0, 60.0
_PATIENCE_S = 30.0
"""A try that has not ended after so long is as good as none: the next one may go."""


@dataclass(slots=True)
class Breaker:
    """A circuit breaker. All times are monotonic seconds.

    Closed, everything goes. After FAILURES failures in a row it is open: nothing goes for FIRST_REST_S, then
    one try; if that fails, nothing for twice as long, up to LONGEST_REST_S. A success closes it.
    """

    failures: int = 0
    opened: int = 0
    """How often it has opened."""
    _rest_s: float = FIRST_REST_S
    _closed_until_s: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last tries have failed."""
        return self.failures >= FAILURES

    def wait_s(self, now_s: float) -> float:
        """How long nothing goes; 0: one may try now."""
        return max(self._closed_until_s - now_s, 0.0) if self.is_open else 0.0

    def begin(self, now_s: float) -> None:
        """Somebody tries. While it is open, all others wait for how that ends."""
        if self.is_open:
            self._closed_until_s = now_s + _PATIENCE_S

    def failed(self, now_s: float) -> None:
        """A try has failed."""
        self.failures += 1
        if not self.is_open:
            return
        if self.failures == FAILURES:
            self.opened += 1
            self._rest_s = FIRST_REST_S
        else:
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        self._closed_until_s = now_s + self._rest_s

    def undecided(self, now_s: float) -> None:
        """A try was given up before it could tell anything: the next one may go."""
        if self.is_open:
            self._closed_until_s = now_s

    def succeeded(self) -> None:
        """A try has succeeded."""
        self.failures = 0
