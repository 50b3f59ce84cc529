"""Bringing one file of the hub here, over several attempts if need be, whatever the other side does."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from server.catalogue.faults import Passing, PullFailed, Spoiled, endpoint, in_words
from server.catalogue.files import sha256_of
from server.catalogue.hub import HubFile
from server.engine.gguf.reader import GgufError, read_header

logger = logging.getLogger("llm-optimizer")

PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Between attempts that brought nothing; those that brought some bytes begin again with the first."""

_PIECE_BYTES = 2**20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BODIES = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


class Abandoned(Exception):
    """Nobody wants the file any more. What is here of it stays for the next time."""


def download(
    file: HubFile, target: Path, received: Callable[[int], None], checked: Callable[[int], None]
) -> None:
    """Download ``file`` to ``target``, or the rest of it if an earlier attempt broke off. Blocks.

    The target appears when the file is whole, and has been checked: until then there is a ``.part`` beside,
    which an interruption leaves there. ``received`` is called with the bytes that are here, ``checked`` with
    those that have been read again for the sha256; both may raise Abandoned.

    Raises:
        PullFailed: no room, no connection, another content than promised, or somebody else downloads it.
        Abandoned: as a callback said.
    """
    path = part_of(file, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _opened_alone(path) as out:
            _fill(_Part(file, path, out), received, checked)
            path.replace(target)
    except OSError as error:
        raise _cannot_write(file, path, error) from error


def part_of(file: HubFile, target: Path) -> Path:
    """Where the file is while it is not whole: files of another content have another one."""
    return target.with_name(f"{target.name}.{file.sha256[:12]}.part")


def body_start(status: int, headers: Mapping[str, str], here_bytes: int, file: HubFile) -> int:
    """Where in the file the body of an answer belongs, when all from ``here_bytes`` on was asked for.

    Raises:
        Spoiled: it is not what was asked for, so that the next pull has to begin anew.
        PullFailed: it is of another length than promised.
    """
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise Spoiled(f"{file} ends before byte {here_bytes:,} of {in_bytes(file.size_bytes)}")
    if status == HTTPStatus.OK:
        length = headers.get("Content-Length", "")
        _check_total(file, int(length) if length.isdecimal() else None)
        return 0
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or int(found[1]) != here_bytes:
        raise Spoiled(
            f"{endpoint()} was asked for {file} from byte {here_bytes:,} on, and sends another part "
            f"(Content-Range: {headers.get('Content-Range', 'none')}); a proxy or mirror may be at fault"
        )
    _check_total(file, None if found[3] == "*" else int(found[3]))
    return here_bytes


def in_bytes(size_bytes: int) -> str:
    """A size for people: to the byte, and short."""
    return f"{size_bytes:,} bytes ({size_bytes / 1e9:.1f} GB)"


@dataclass(frozen=True, slots=True)
class _Part:
    """What is here of a file, open for writing."""

    file: HubFile
    path: Path
    out: BinaryIO

    @property
    def missing_bytes(self) -> int:
        return self.file.size_bytes - self.out.tell()


def _fill(part: _Part, received: Callable[[int], None], checked: Callable[[int], None]) -> None:
    try:
        _receive(part, received)
        part.out.flush()
        os.fsync(part.out.fileno())
        _check_content(part, checked)
    except Spoiled as error:
        part.path.unlink()
        raise Spoiled(f"{error}. What was here of it has been removed: pull it again") from error


def _receive(part: _Part, received: Callable[[int], None]) -> None:
    """All that is missing, with as many requests as it takes while each brings something."""
    if part.out.seek(0, os.SEEK_END) > part.file.size_bytes:
        part.out.seek(0)
        part.out.truncate()
    pauses = iter(PAUSES_S)
    while part.missing_bytes:
        here_bytes = part.out.tell()
        received(here_bytes)
        fault = _receive_some(part, received)
        if part.out.tell() > here_bytes:
            pauses = iter(PAUSES_S)
        if part.missing_bytes:
            _pause_or_raise(fault, next(pauses, None))


def _pause_or_raise(fault: Passing, pause_s: float | None) -> None:
    if pause_s is None:
        raise fault
    logger.warning("the download goes on in %g s: %s", pause_s, fault)
    time.sleep(pause_s)


def _receive_some(part: _Part, received: Callable[[int], None]) -> Passing:
    """One request; what it brings stays even if it breaks off. Returns why it brought no more."""
    from huggingface_hub import constants, get_session, hf_hub_url  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    file, here_bytes = part.file, part.out.tell()
    _check_room(part)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if here_bytes:
        headers["Range"] = f"bytes={here_bytes}-"
    url = hf_hub_url(file.repository, file.path, revision=file.revision, endpoint=endpoint())
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        with (
            in_words(file.repository, file.path),
            get_session().stream("GET", url, headers=headers, timeout=timeout_s) as response,
        ):
            _take(part, response, here_bytes, received)
    except Passing as error:
        return error
    return Passing(
        f"{endpoint()} ends {file} after {part.out.tell():,} of {in_bytes(file.size_bytes)}: "
        "try again later, or name another mirror with HF_ENDPOINT"
    )


def _take(part: _Part, response: Any, here_bytes: int, received: Callable[[int], None]) -> None:
    """Write an answer's body to its place."""
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # noqa: PLC0415

    if response.status_code not in _BODIES:
        hf_raise_for_status(response)
    part.out.seek(body_start(response.status_code, response.headers, here_bytes, part.file))
    part.out.truncate()
    for piece in response.iter_bytes(_PIECE_BYTES):
        if len(piece) > part.missing_bytes:
            raise Spoiled(f"{endpoint()} sends more of {part.file} than {in_bytes(part.file.size_bytes)}")
        _check_room(part)
        part.out.write(piece)
        received(part.out.tell())


def _check_total(file: HubFile, total_bytes: int | None) -> None:
    if total_bytes not in (None, file.size_bytes):
        raise PullFailed(
            f"{endpoint()} sends {total_bytes:,} bytes as {file}, which has {in_bytes(file.size_bytes)}: "
            "does the network want a sign-in first? Otherwise a proxy or mirror is at fault"
        )


def _check_content(part: _Part, checked: Callable[[int], None]) -> None:
    digest = sha256_of(part.path, checked)
    if digest != part.file.sha256:
        raise Spoiled(f"{part.file} arrived damaged: its sha256 is {digest}, not {part.file.sha256}")
    try:
        read_header(part.path)
    except GgufError as error:
        raise Spoiled(f"{part.file} {error.reason}") from error


def _check_room(part: _Part) -> None:
    """Before and while it is written: others fill the disk, too."""
    if part.missing_bytes > shutil.disk_usage(part.path.parent).free:
        raise _no_room(part.path.parent, part.missing_bytes)


def _no_room(folder: Path, needed_bytes: int) -> PullFailed:
    return PullFailed(
        f"{folder} has {in_bytes(shutil.disk_usage(folder).free)} free, and {in_bytes(needed_bytes)} are to "
        "come; delete a model, or let models_dir name a folder with more room"
    )


@contextlib.contextmanager
def _opened_alone(path: Path) -> Iterator[BinaryIO]:
    """The part, open for no other program or thread: two that write into one would spoil it."""
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as out:
            _lock(out, path)
            # Whoever had it before may have finished it meanwhile, and given it its name.
            if _is_still(path, out):
                try:
                    yield out
                finally:
                    _remove_if_empty(path)
                return


def _lock(out: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PullFailed(
            f"{path} is being downloaded already, by the service or another pull: wait for it, or stop it"
        ) from error
    except OSError as error:
        # Some network folders know no locks. Whoever pulls twice at a time there finds a wrong sha256.
        logger.debug("%s cannot be locked: %s", path, error)


def _is_still(path: Path, out: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(out.fileno()))
    except FileNotFoundError:
        return False


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == 0:
            path.unlink()


def _cannot_write(file: HubFile, path: Path, error: OSError) -> PullFailed:
    folder = path.parent
    if error.errno in _FULL:
        here_bytes = path.stat().st_size if path.exists() else 0
        return _no_room(folder, file.size_bytes - here_bytes)
    return PullFailed(
        f"{folder} cannot be written: {error.strerror or error}; "
        "let models_dir name a folder that may be written, or give yourself the right to"
    )
