"""The requests under way, and the one place where the end of each is told."""

import logging
import time
from collections.abc import Callable

from server.domain.account import Account, Ending, Record, Visit

logger = logging.getLogger("llm-optimizer")

Observer = Callable[[Record], None]
"""Told of each request that has ended, on the event loop; must not block."""


class Ledger:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        self._open: dict[Account, None] = {}

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of each end from now on."""
        self._observers.append(observer)

    def open(self, visit: Visit) -> Account:
        """A request has arrived. It must be closed."""
        account = Account(visit)
        self._open[account] = None
        return account

    def under_way(self) -> tuple[Account, ...]:
        """The requests that have not ended, the oldest first."""
        return tuple(self._open)

    def close(self, account: Account, route: str | None, status: int | None, ending: Ending) -> None:
        """A request has ended, this way or another; all observers are told. Closing it again tells nobody."""
        if account not in self._open:
            return
        del self._open[account]
        record = Record(
            visit=account.visit,
            work=account.work_so_far(),
            route=route,
            status=status,
            ending=ending,
            error=None if account.error is None else str(account.error),
            total_s=(time.monotonic_ns() - account.visit.arrived_ns) / 1e9,
        )
        for observer in self._observers:
            self._tell(observer, record)

    def _tell(self, observer: Observer, record: Record) -> None:
        try:
            observer(record)
        except Exception:
            # Whoever watches must not cost an answer.
            logger.exception("an observer of requests broke")
