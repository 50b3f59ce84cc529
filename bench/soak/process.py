"""What /proc tells of the server's process."""

import re
from pathlib import Path

from bench.soak.findings import Sample

KIB = 1024


def sample(process_id: int, at_s: float) -> Sample:
    """The process as it is now. Raises OSError where it is gone."""
    taken, touched = memory_bytes(process_id)
    folder = Path(f"/proc/{process_id}")
    return Sample(
        at_s, taken, touched, len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))
    )


def memory_bytes(process_id: int) -> tuple[int, int]:
    """Memory that a process has taken from the system for itself, and the part of it that it has touched.

    The first says whether something leaks. The second also grows where nothing does: the buffers for the
    largest batch are touched bit by bit, over hours, and anew after each load.
    """
    status = Path(f"/proc/{process_id}/status").read_text()
    taken, touched = (re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmData", "RssAnon"))
    return int(taken[1]) * KIB if taken else 0, int(touched[1]) * KIB if touched else 0
