"""The requests that ended last, for whoever wants to look at them."""

from collections import deque

from server.domain.account import Record

MOST = 100
_LOOKS = ("GET", "HEAD", "OPTIONS")


class Recent:
    """The newest ones; an observer of the ledger. ``ended`` counts all that were ever kept.

    Looks without an error (at lists, health, metrics, the dashboard) are left out: somebody is
    always looking.
    """

    def __init__(self, most: int = MOST) -> None:
        self._records: deque[Record] = deque(maxlen=most)
        self.ended = 0

    def add(self, record: Record) -> None:
        """Keep one; the oldest goes if there is no room."""
        if record.visit.method in _LOOKS and record.error is None:
            return
        self._records.append(record)
        self.ended += 1

    def records(self) -> tuple[Record, ...]:
        """The newest first."""
        return tuple(reversed(self._records))
