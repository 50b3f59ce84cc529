"""The requests that ended last, for whoever wants to look at them."""

from collections import deque

from server.domain.account import Record

MOST = 100


class Recent:
    """The newest that asked a model for something, or that went wrong; an observer of the ledger.

    ``ended`` counts all of those there ever were.
    """

    def __init__(self, most: int = MOST) -> None:
        self._records: deque[Record] = deque(maxlen=most)
        self.ended = 0

    def add(self, record: Record) -> None:
        """Keep one; the oldest goes if there is no room. Whoever only looks on would push the others out."""
        if record.work.model is None and record.error is None:
            return
        self._records.append(record)
        self.ended += 1

    def records(self) -> tuple[Record, ...]:
        """The newest first."""
        return tuple(reversed(self._records))
