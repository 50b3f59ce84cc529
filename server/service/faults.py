"""What went wrong lately, with its time: for whoever looks at the health of the service."""

import datetime
from collections import deque
from dataclasses import dataclass

MOST = 50


@dataclass(frozen=True, slots=True)
class Fault:
    """``where`` is a device, a model or the service."""

    at: datetime.datetime
    where: str
    text: str


class Faults:
    """The newest ones. Belongs to the event loop."""

    def __init__(self) -> None:
        self._faults: deque[Fault] = deque(maxlen=MOST)

    def add(self, where: str, text: str, at: datetime.datetime | None = None) -> None:
        """Note one, as of now if nothing else is said."""
        self._faults.append(Fault(at or datetime.datetime.now(datetime.UTC), where, text))

    def recent(self) -> tuple[Fault, ...]:
        """The newest first."""
        return tuple(reversed(self._faults))
