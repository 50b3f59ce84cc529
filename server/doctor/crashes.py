"""What ended the service lately while it did something risky, and how that is forgotten."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from server.doctor.check import Check, ok, warning
from server.service.crashes import Crash


def judge_crashes(folder: Path | None, crashes: Sequence[Crash]) -> Iterator[Check]:
    """A line for each; ``folder`` None: nothing is remembered."""
    if folder is None:
        yield ok("crashes", "not remembered: there is no cache_dir")
        return
    if not crashes:
        yield ok("crashes", "loading a model has not ended the service lately")
    for crash in crashes:
        yield warning(
            "crashes",
            f"{crash}; until {crash.until:%Y-%m-%d %H:%M} UTC it is done with less, or not at all",
            "lower the model's context, raise its memory_margin_mib, or see who else takes the device's "
            f"memory (nvidia-smi); to try again with all of it, delete {folder}",
            subject=crash.what,
        )
