"""What a look at one thing came to."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is, from harmless to where the service cannot work as configured."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``subject`` tells checks of the same ``name`` apart; ``remedy`` is what to do about it."""

    name: str
    status: Status
    found: str
    remedy: str | None = None
    subject: str | None = None

    @property
    def label(self) -> str:
        """Name and subject, for people."""
        return self.name if self.subject is None else f"{self.name} {self.subject}"


def ok(name: str, found: str, *, subject: str | None = None) -> Check:
    """All is well."""
    return Check(name, Status.OK, found, None, subject)


def warning(name: str, found: str, remedy: str, *, subject: str | None = None) -> Check:
    """The service works, though not as well as it could."""
    return Check(name, Status.WARNING, found, remedy, subject)


def fault(name: str, found: str, remedy: str, *, subject: str | None = None) -> Check:
    """The service cannot work as it is configured."""
    return Check(name, Status.FAULT, found, remedy, subject)


def worst(checks: Iterable[Check]) -> Status:
    """The worst status of all."""
    order = tuple(Status)
    return max((check.status for check in checks), key=order.index, default=Status.OK)
