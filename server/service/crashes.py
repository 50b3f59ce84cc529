"""Remembers across restarts what ended the process: ggml aborts where CUDA has no memory left, and no code of
ours runs after that. So a marker lies on disk while something risky is done."""

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger("llm-optimizer")

_COUNTS = "crashes.json"
_MARKERS = "risk-*.json"
_STARTED_FIELD = 19
"""Of /proc/PID/stat, counted behind the name in parentheses: when the process began."""


class Crashes:
    """How often each risky thing ended a process before.

    Nothing here raises: a faulty disk is told of, and then nothing is remembered, as without a ``folder``.
    Callable from any thread.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._counts: dict[str, int] = {}
        if folder is not None:
            with _told_only(folder):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._counts = {key: int(count) for key, count in _read(folder / _COUNTS).items()}
                self._look_back(folder)

    def times(self, key: str) -> int:
        """How often a process ended while it did ``key``."""
        return self._counts.get(key, 0)

    @contextlib.contextmanager
    def risking(self, key: str, what: str) -> Iterator[None]:
        """Do something that may end the process; ``what`` says in words what it is."""
        if self._folder is None:
            yield
            return
        marker = self._folder / f"risk-{secrets.token_hex(8)}.json"
        with _told_only(self._folder):
            told = {"key": key, "what": what, "pid": os.getpid(), "started": _started(os.getpid())}
            _write(marker, told)
        try:
            yield
        finally:
            with _told_only(self._folder):
                marker.unlink(missing_ok=True)

    def _look_back(self, folder: Path) -> None:
        """Count what processes left behind that are no more."""
        for marker in sorted(folder.glob(_MARKERS)):
            left = _read(marker)
            if left.get("started") == _started(int(left.get("pid", 0))) is not None:
                continue
            key = str(left.get("key", ""))
            self._counts[key] = self._counts.get(key, 0) + 1
            logger.warning(
                "the service ended while it %s, for the %s time",
                left.get("what"),
                _ordinal(self._counts[key]),
            )
            _write(folder / _COUNTS, self._counts)
            marker.unlink(missing_ok=True)


@contextlib.contextmanager
def _told_only(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be used, crashes are not remembered: %s", folder, error)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        # Cut off in the middle of its writing, as by a crash.
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, told: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(told))
        file.flush()
        # What follows may take the whole machine's driver down.
        os.fsync(file.fileno())
    part.replace(path)


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None: there is none of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return fields[_STARTED_FIELD] if len(fields) > _STARTED_FIELD else None


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
