"""What /proc tells of the server's process."""

import re
from dataclasses import dataclass
from pathlib import Path

KIB = 1024


@dataclass(frozen=True)
class Process:
    """A process at a moment."""

    taken_bytes: int
    """Address space that it may write to: what it occupies, and also stacks that it never touched and the
    holes that malloc has given back."""
    resident_bytes: int
    """What it occupies, without files."""
    descriptors: int
    threads: int


def process_now(process_id: int) -> Process:
    """The process as it is now. Raises OSError where it is gone."""
    folder = Path(f"/proc/{process_id}")
    status = (folder / "status").read_text()
    return Process(
        _bytes_of("VmData", status),
        _bytes_of("RssAnon", status),
        len(list((folder / "fd").iterdir())),
        len(list((folder / "task").iterdir())),
    )


def _bytes_of(name: str, status: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * KIB if found else 0
