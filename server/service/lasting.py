"""Notes on disk that outlive the process which wrote them, and whose they are."""

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

_STARTED_FIELD = 19
"""Of /proc/PID/stat, counted behind the name in parentheses: when the process began."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, and when it wrote this."""

    pid: int
    started: str | None
    at: datetime.datetime

    @classmethod
    def this(cls) -> "Owner":
        """The one that asks."""
        return cls(os.getpid(), began(os.getpid()), datetime.datetime.now(datetime.UTC))

    @property
    def is_no_more(self) -> bool:
        """Whether the process has ended, whoever has its number now."""
        started = began(self.pid)
        return started is None or started != self.started


def began(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None: there is none of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return fields[_STARTED_FIELD] if len(fields) > _STARTED_FIELD else None


def put_whole(path: Path, content: bytes) -> None:
    """Write all of it or nothing, and onto the disk itself: what follows may take the machine down."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
