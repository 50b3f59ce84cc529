"""What the helper has done so far, for requests and ahead of need."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class HelperFigures:
    """Totals since the service started; the event loop writes, anyone may read.

    ``made`` summaries were written for a request that waited, ``reused`` were there from an earlier turn, and
    ``ahead`` are of old tool results, before anybody needed them.
    """

    made: int = 0
    reused: int = 0
    ahead: int = 0
    request_s: float = 0.0
    """So long requests have waited for it; failures count."""
    ahead_s: float = 0.0

    @contextlib.contextmanager
    def working(self, *, ahead: bool) -> Iterator[None]:
        """Count the time that the block takes."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            taken_s = time.monotonic() - started_s
            if ahead:
                self.ahead_s += taken_s
            else:
                self.request_s += taken_s
