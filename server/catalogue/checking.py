"""Whether the files that are here are still those that were downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from server.catalogue.catalogue import Catalogue
from server.catalogue.entries import Entry
from server.catalogue.faults import PullFailed
from server.catalogue.files import sha256_of
from server.catalogue.hub import HubFile, find_file, source_of
from server.catalogue.known import find_known
from server.catalogue.names import ModelName
from server.domain.errors import InvalidRequest, ModelNotFound
from server.engine.gguf.reader import GgufError, read_header


class Verdict(StrEnum):
    """What became of a file."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    MISSING = "missing"
    UNKNOWN = "unknown"
    """It can be read, and nobody says what it should be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found. ``words`` give the reason, and the remedy where one is needed."""

    name: str
    path: Path
    verdict: Verdict
    words: str


@dataclass(frozen=True, slots=True)
class _Promise:
    """What a file should be, and who says so."""

    size_bytes: int | None
    sha256: str
    by: str


def checkable(catalogue: Catalogue) -> tuple[ModelName, ...]:
    """The models whose files can be compared with something: the settings' own, and those with a record."""
    return tuple(
        entry.name
        for entry in catalogue.entries()
        if entry.is_configured or (entry.record is not None and entry.record.sha256 is not None)
    )


def check(catalogue: Catalogue, name: ModelName, tell: Callable[[int, int], None]) -> Finding:
    """Compare the file of a model with what is written down of it, or else with the hub's word. Blocks.

    ``tell`` is called with the bytes read so far, and all of them.

    Raises:
        ModelNotFound: no model of that name is here.
    """
    entry = catalogue.look_up(name)
    if entry is None:
        text = f"model '{name.display}' is not installed; pull {name.display}"
        raise ModelNotFound(name.display, text)
    path = entry.settings.path
    try:
        verdict, words = _verdict(catalogue, entry, tell)
    except OSError as error:
        verdict, words = Verdict.DAMAGED, f"cannot be read: {error.strerror or error}"
    return Finding(name.display, path, verdict, f"{words}{_remedy(verdict, entry)}")


def _verdict(catalogue: Catalogue, entry: Entry, tell: Callable[[int, int], None]) -> tuple[Verdict, str]:
    path = entry.settings.path
    if not path.is_file():
        return Verdict.MISSING, "is not there"
    try:
        # A file that was cut off says so itself, without the hub.
        read_header(path)
        promise = _promise(catalogue, entry)
    except GgufError as error:
        return Verdict.DAMAGED, error.reason
    except (PullFailed, InvalidRequest) as error:
        return Verdict.UNKNOWN, f"can be read, but its sha256 could not be compared: {error}"
    if promise is None:
        return Verdict.UNKNOWN, "can be read, but nobody has written down its sha256"
    return _compared(path, promise, tell)


def _compared(path: Path, promise: _Promise, tell: Callable[[int, int], None]) -> tuple[Verdict, str]:
    size_bytes = path.stat().st_size
    if promise.size_bytes not in (None, size_bytes):
        return Verdict.DAMAGED, f"has {size_bytes:,} bytes, and {promise.size_bytes:,} by {promise.by}"
    digest = sha256_of(path, lambda done_bytes: tell(done_bytes, size_bytes))
    if digest != promise.sha256:
        return Verdict.DAMAGED, f"has the sha256 {digest}, and {promise.sha256} by {promise.by}"
    return Verdict.WHOLE, f"{size_bytes:,} bytes, sha256 {digest} as by {promise.by}"


def _promise(catalogue: Catalogue, entry: Entry) -> _Promise | None:
    """What the record says, or the list of known models, or the hub; None: nobody knows of the file."""
    record = entry.record
    if record is not None and record.sha256 is not None:
        return _Promise(record.size_bytes, record.sha256, "the record of its download")
    known = find_known(catalogue.known, entry.name)
    if known is not None and known.sha256 is not None:
        return _Promise(known.size_bytes, known.sha256, "models/catalogue.toml")
    source = source_of(entry.name, known)
    return None if source is None else _of_hub(find_file(source))


def _of_hub(file: HubFile) -> _Promise:
    return _Promise(file.size_bytes, file.sha256, str(file))


def _remedy(verdict: Verdict, entry: Entry) -> str:
    if verdict is Verdict.DAMAGED:
        return f"; delete it, and pull {entry.name.display} again"
    return f"; pull {entry.name.display}" if verdict is Verdict.MISSING else ""
