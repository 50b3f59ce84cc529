"""Remembers across restarts what ended the process: ggml aborts where CUDA has no memory left, and no code of
ours runs after that. So a marker lies on disk while something risky is done."""

import contextlib
import datetime
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from server.service.lasting import began, put_whole

logger = logging.getLogger("llm-optimizer")

FILE = "crashes.json"
_MARKERS = "risk-*.json"
_MIB = 2**20
_FIRST_REST = datetime.timedelta(hours=6)
_MOST_DOUBLINGS = 6
_TIMES = {1: "once", 2: "twice"}


@dataclass(frozen=True, slots=True)
class Crash:
    """What ended a process, ``times`` times so far and at last ``at``: ``what`` in words, like "loaded
    qwen3:1.7b on cuda:1". ``least_bytes`` is the smallest memory plan that did.

    ``shared``: the last time the process did something else as well, which may have been the reason.
    """

    what: str
    times: int
    at: datetime.datetime
    least_bytes: int
    shared: bool

    @property
    def until(self) -> datetime.datetime:
        """From then on all is as if nothing had been. Each time doubles the wait."""
        return self.at + _FIRST_REST * (1 << min(self.times - 1, _MOST_DOUBLINGS))

    def __str__(self) -> str:
        beside = ", perhaps through something else that it did at that moment" if self.shared else ""
        return (
            f"the service ended while it {self.what} with {-(-self.least_bytes // _MIB)} MiB planned "
            f"({_TIMES.get(self.times, f'{self.times} times')}, at last on {_minute(self.at)}{beside})"
        )


@dataclass(frozen=True, slots=True)
class _Marker:
    """Says that a process is at something risky."""

    key: str
    what: str
    planned_bytes: int
    at: datetime.datetime
    pid: int
    started: str | None

    @property
    def left_behind(self) -> bool:
        """Whether that process is no more."""
        started = began(self.pid)
        return started is None or started != self.started


_CRASHES = TypeAdapter(dict[str, Crash])
_MARKER = TypeAdapter(_Marker)


def crash_folder(cache_dir: Path | None) -> Path | None:
    """Where they are kept; to delete the files in it is to forget them."""
    return None if cache_dir is None else cache_dir / "crashes"


class Crashes:
    """How often each risky thing ended a process before.

    Nothing here raises: a faulty disk is told of, and then nothing is remembered, as without a ``folder``.
    Callable from any thread.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def look_back(self) -> tuple[Crash, ...]:
        """Count what processes left behind that are no more; the log is told of each."""
        folder = self._folder
        if folder is None:
            return ()
        new: list[Crash] = []
        with _told_only(folder), self._lock:
            left = _left_behind(folder)
            counted = _counted(_known(folder), left.values())
            if left:
                put_whole(folder / FILE, _CRASHES.dump_json(counted))
            for path in left:
                path.unlink(missing_ok=True)
            new += (counted[key] for key in dict.fromkeys(marker.key for marker in left.values()))
        for crash in new:
            logger.warning("%s", crash)
        return tuple(new)

    def in_force(self) -> Mapping[str, Crash]:
        """What still counts, by its key."""
        folder = self._folder
        if folder is None:
            return {}
        known: dict[str, Crash] = {}
        # Whoever writes there tells what is wrong with it.
        with contextlib.suppress(OSError):
            known = _counted(_known(folder), _left_behind(folder).values())
        now = datetime.datetime.now(datetime.UTC)
        return {key: crash for key, crash in known.items() if now < crash.until}

    def last(self, key: str) -> Crash | None:
        """What came of ``key`` before, as far as it still counts."""
        return self.in_force().get(key)

    def forget(self, key: str) -> None:
        """``key`` went well."""
        folder = self._folder
        if folder is None:
            return
        with _told_only(folder), self._lock:
            known = _known(folder)
            if known.pop(key, None) is not None:
                put_whole(folder / FILE, _CRASHES.dump_json(known))

    def acquit(self) -> None:
        """What this process is at does not end it: something else is about to, and it is known what."""
        folder = self._folder
        if folder is None:
            return
        with _told_only(folder), self._lock:
            for path in folder.glob(_MARKERS):
                marker = _read_marker(path)
                if marker is not None and marker.pid == os.getpid():
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def risking(self, key: str, what: str, planned_bytes: int) -> Iterator[None]:
        """Do something that may end the process; ``what`` says in words what it is."""
        folder = self._folder
        if folder is None:
            yield
            return
        path = folder / f"risk-{secrets.token_hex(8)}.json"
        with _told_only(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            now, pid = datetime.datetime.now(datetime.UTC), os.getpid()
            put_whole(path, _MARKER.dump_json(_Marker(key, what, planned_bytes, now, pid, began(pid))))
        try:
            yield
        finally:
            with _told_only(folder):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _told_only(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.warning("%s cannot be used, crashes are not remembered: %s", folder, error)


def _known(folder: Path) -> dict[str, Crash]:
    try:
        return _CRASHES.validate_json((folder / FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        # Damaged, or written by another version: it is only of help, not needed.
        return {}


def _left_behind(folder: Path) -> dict[Path, _Marker]:
    """The markers of processes that are no more."""
    markers = ((path, _read_marker(path)) for path in sorted(folder.glob(_MARKERS)))
    return {path: marker for path, marker in markers if marker is not None and marker.left_behind}


def _read_marker(path: Path) -> _Marker | None:
    try:
        return _MARKER.validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _counted(known: Mapping[str, Crash], left: Iterable[_Marker]) -> dict[str, Crash]:
    """``known`` with what was left behind."""
    markers = tuple(left)
    at_once = Counter((marker.pid, marker.started) for marker in markers)
    counted = dict(known)
    for marker in markers:
        before = counted.get(marker.key)
        counted[marker.key] = Crash(
            marker.what,
            1 if before is None else before.times + 1,
            marker.at,
            marker.planned_bytes if before is None else min(before.least_bytes, marker.planned_bytes),
            shared=at_once[marker.pid, marker.started] > 1,
        )
    return counted


def _minute(at: datetime.datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
