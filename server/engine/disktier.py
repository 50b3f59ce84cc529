"""States of the KV cache on disk: one folder that engines and processes may share.

The folder's own lock (flock) is held while room is made, a file is begun and a file gets its name, so
that the budget holds for all who share it. Until then it has a temporary name and a lock of its own,
which the kernel drops with the process: so an abandoned file is told from one that is being written.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from server.engine.prefix import Tokens
from server.engine.statefile import (
    Damaged,
    OtherVersion,
    State,
    encode_head,
    read_header,
    read_state,
    read_tokens,
)

logger = logging.getLogger(__name__)

_SUFFIX = ".kvstate"
_STATES = f"*{_SUFFIX}"
_UNFINISHED = f"*{_SUFFIX}.*.part"
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Filed:
    """A state that lies in the folder."""

    name: str
    tokens: Tokens
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of writing a state: its file, if there is one, and the files that had to go for it."""

    filed: Filed | None
    evicted: tuple[str, ...]


@dataclass(slots=True)
class _Census:
    """What an opening found."""

    usable: list[tuple[int, Filed]] = field(default_factory=list)
    others: int = 0
    damaged: int = 0


class DiskTier:
    """States in ``folder``, at most ``budget_bytes`` of files there, whoever wrote them.

    ``scope`` names everything that a state depends on (model, type of the KV cache, versions); files of
    another scope are left alone until their room is needed. Nothing here raises on a faulty disk: what
    cannot be read counts as missing, and after the first failure to write nothing more is written.
    """

    def __init__(self, folder: Path, budget_bytes: int, scope: str) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._scope = scope
        self._writable = True
        self._tidy()
        self._found = self._take_stock()

    @property
    def found(self) -> tuple[Filed, ...]:
        """The states of this scope that lay there at the start, the longest unused first."""
        return self._found

    @property
    def writable(self) -> bool:
        """Whether it is worth a try to write."""
        return self._writable

    def write(self, tokens: Tokens, state: State) -> Outcome:
        """Write a state and drop the files that were used longest ago for it. Takes seconds."""
        evicted: list[str] = []
        filed = None
        try:
            if self._writable:
                filed = self._write(tokens, state, evicted)
        except FileNotFoundError:
            logger.info("the folder %s was emptied while a state was being written", self._folder)
        except OSError as error:
            self._stop_writing(error)
        return Outcome(filed, tuple(evicted))

    def read(self, filed: Filed) -> State | None:
        """The state, checked as a whole; None, with a log line, where it is gone or damaged."""
        path = self._folder / filed.name
        try:
            with path.open("rb") as file:
                return self._read(file, filed.tokens)
        except FileNotFoundError:
            logger.info("the state %s is no longer in %s", filed.name, self._folder)
        except OtherVersion:
            logger.info("the state %s was replaced by another version's", path)
        except Damaged as error:
            self._discard(path, error)
        except OSError as error:
            logger.warning("cannot read the state %s: %s", path, error)
        return None

    def touch(self, filed: Filed) -> None:
        """Note a use, for all who share the folder."""
        now_ns = time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(self._folder / filed.name, ns=(now_ns, now_ns))

    def _tidy(self) -> None:
        try:
            with self._locked():
                self._make_room(0, [])
        except OSError as error:
            self._stop_writing(error)

    def _take_stock(self) -> tuple[Filed, ...]:
        census = _Census()
        for path in self._folder.glob(_STATES):
            self._examine(path, census)
        found = tuple(filed for _, filed in sorted(census.usable, key=lambda dated: dated[0]))
        logger.info(
            "%s: %d states of this model (%d MiB); %d of other models or settings left alone; %d damaged",
            self._folder,
            len(found),
            sum(filed.file_bytes for filed in found) // _MIB,
            census.others,
            census.damaged,
        )
        return found

    def _examine(self, path: Path, census: _Census) -> None:
        try:
            with path.open("rb") as file:
                header = read_header(file)
                if header.scope != self._scope:
                    census.others += 1
                    return
                status = os.fstat(file.fileno())
                filed = Filed(path.name, read_tokens(file, header), status.st_size)
                census.usable.append((status.st_mtime_ns, filed))
        except FileNotFoundError:
            return
        except OtherVersion:
            census.others += 1
        except Damaged as error:
            census.damaged += 1
            self._discard(path, error)
        except OSError as error:
            logger.warning("cannot read the state %s: %s", path, error)

    def _read(self, file: BufferedIOBase, tokens: Tokens) -> memoryview:
        header = read_header(file)
        if header.scope != self._scope or read_tokens(file, header) != tokens:
            raise Damaged("it belongs to other tokens")
        return read_state(file, header)

    def _write(self, tokens: Tokens, state: State, evicted: list[str]) -> Filed | None:
        head = encode_head(self._scope, tokens, state)
        filed = Filed(self._name(tokens), tokens, len(head) + memoryview(state).nbytes)
        with contextlib.ExitStack() as cleanup:
            with self._locked():
                if not self._make_room(filed.file_bytes, evicted):
                    logger.info(
                        "a state of %d MiB is not written: disk_cache_mib has no room",
                        filed.file_bytes // _MIB,
                    )
                    return None
                file, path = cleanup.enter_context(self._unfinished(filed))
            file.write(head)
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
            with self._locked():
                path.replace(self._folder / filed.name)
        self.touch(filed)
        return filed

    @contextlib.contextmanager
    def _unfinished(self, filed: Filed) -> Iterator[tuple[BinaryIO, Path]]:
        """A locked file of its final length, so that it counts for the budget from its first moment."""
        descriptor, name = tempfile.mkstemp(prefix=f"{filed.name}.", suffix=".part", dir=self._folder)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.truncate(filed.file_bytes)
                yield file, path
        finally:
            path.unlink(missing_ok=True)

    def _make_room(self, file_bytes: int, evicted: list[str]) -> bool:
        """Remove the files used longest ago; False, and none removed, if that would not be enough."""
        self._remove_abandoned()
        being_written_bytes = sum(size for _, _, size in self._sizes(_UNFINISHED))
        room_bytes = self._budget_bytes - being_written_bytes - file_bytes
        if room_bytes < 0:
            return False
        states = sorted(self._sizes(_STATES))
        used_bytes = sum(size for _, _, size in states)
        for _, path, size in states:
            if used_bytes <= room_bytes:
                break
            path.unlink(missing_ok=True)
            used_bytes -= size
            evicted.append(path.name)
        return True

    def _remove_abandoned(self) -> None:
        for path in self._folder.glob(_UNFINISHED):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    def _sizes(self, pattern: str) -> Iterator[tuple[int, Path, int]]:
        """Last use, path and bytes of the files with such names."""
        for path in self._folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime_ns, path, status.st_size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _name(self, tokens: Tokens) -> str:
        """Equal tokens of one scope have one file, whoever writes it."""
        digest = hashlib.sha256(self._scope.encode())
        digest.update(tokens)
        return digest.hexdigest()[:32] + _SUFFIX

    def _discard(self, path: Path, error: Damaged) -> None:
        logger.warning("the state %s is damaged and was deleted: %s", path, error)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def _stop_writing(self, error: OSError) -> None:
        self._writable = False
        logger.warning(
            "states are no longer written to %s: %s; free some room, lower disk_cache_mib or set cache_dir "
            "to a folder that can be written, and start again",
            self._folder,
            error,
        )
