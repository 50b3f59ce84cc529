"""What the dashboard shows, once a second, made once however many look at it."""

import asyncio
import datetime
import json
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass
from typing import Any

from server import __version__
from server.api.health_answers import GpuHealth
from server.domain.account import Account, Record, Visit
from server.service.ledger import Ledger
from server.service.recent import Recent

EVERY_S = 1.0
MOST_RECORDS = 30


class Feed:
    """``gpu`` gives what ``/health/gpu`` tells. Belongs to the event loop."""

    def __init__(self, gpu: Callable[[], GpuHealth], ledger: Ledger, recent: Recent) -> None:
        self._gpu = gpu
        self._ledger = ledger
        self._recent = recent
        self._seen: _Sight | None = None

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events without an end. The requests that have ended stand in the first one, and in
        each after another has."""
        known = -1
        while True:
            sight = self._sight()
            yield as_event({**sight.told, "recent": sight.recent if sight.ended != known else None})
            known = sight.ended
            await asyncio.sleep(EVERY_S)

    def _sight(self) -> "_Sight":
        """All of one moment: a request that has ended is not under way any more."""
        now_s = time.monotonic()
        if self._seen is None or now_s - self._seen.at_s >= EVERY_S / 2:
            told = {
                "version": __version__,
                "at": datetime.datetime.now(datetime.UTC).isoformat(),
                "gpu": self._gpu().model_dump(mode="json"),
                "under_way": [told_of_account(one) for one in self._ledger.under_way() if one.work.model],
            }
            recent = [told_of_record(one) for one in self._recent.records()[:MOST_RECORDS]]
            self._seen = _Sight(now_s, told, recent, self._recent.ended)
        return self._seen


@dataclass(frozen=True, slots=True)
class _Sight:
    """What was seen at ``at_s``, and how many requests had ``ended`` by then."""

    at_s: float
    told: dict[str, Any]
    recent: list[dict[str, Any]]
    ended: int


def as_event(told: dict[str, Any]) -> bytes:
    """One event of a stream of them."""
    return b"data: " + json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def told_of_account(account: Account) -> dict[str, Any]:
    """A request under way."""
    return {**_told_of_visit(account.visit), "work": asdict(account.work_so_far())}


def told_of_record(record: Record) -> dict[str, Any]:
    """A request that has ended."""
    return {
        **_told_of_visit(record.visit),
        "route": record.route,
        "status": record.status,
        "ending": record.ending.value,
        "error": record.error,
        "total_s": record.total_s,
        "work": asdict(record.work),
    }


def _told_of_visit(visit: Visit) -> dict[str, Any]:
    return {"id": visit.id, "client": visit.client, "arrived_at": visit.arrived_at.isoformat()}
