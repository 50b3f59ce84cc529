"""Whether the files that are here are still those that were downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from server.catalogue.catalogue import Catalogue
from server.catalogue.digests import Expected, expected_digest
from server.catalogue.entries import Entry
from server.catalogue.faults import PullFailed
from server.catalogue.files import sha256_of
from server.catalogue.hub import find_file, source_of
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
        expected = _expected(catalogue, entry)
    except GgufError as error:
        return Verdict.DAMAGED, error.reason
    except (PullFailed, InvalidRequest) as error:
        return Verdict.UNKNOWN, f"can be read, but its sha256 could not be compared: {error}"
    if expected is None:
        return Verdict.UNKNOWN, "can be read, but nobody has written down its sha256"
    return _compared(path, expected, tell)


def _compared(path: Path, expected: Expected, tell: Callable[[int, int], None]) -> tuple[Verdict, str]:
    size_bytes = path.stat().st_size
    if expected.size_bytes not in (None, size_bytes):
        return Verdict.DAMAGED, f"has {size_bytes:,} bytes, and {expected.size_bytes:,} by {expected.source}"
    digest = sha256_of(path, lambda done_bytes: tell(done_bytes, size_bytes))
    if digest != expected.sha256:
        return Verdict.DAMAGED, f"has the sha256 {digest}, and {expected.sha256} by {expected.source}"
    return Verdict.WHOLE, f"{size_bytes:,} bytes, sha256 {digest} as by {expected.source}"


def _expected(catalogue: Catalogue, entry: Entry) -> Expected | None:
    """What is written down here of the file, or what the hub says; None: nobody knows of it."""
    known = find_known(catalogue.known, entry.name)
    written_down = expected_digest(entry, known)
    if written_down is not None:
        return written_down
    source = source_of(entry.name, known)
    if source is None:
        return None
    file = find_file(source)
    return Expected(file.sha256, str(file), file.size_bytes)


def _remedy(verdict: Verdict, entry: Entry) -> str:
    if verdict is Verdict.DAMAGED:
        return f"; delete it, and pull {entry.name.display} again"
    return f"; pull {entry.name.display}" if verdict is Verdict.MISSING else ""
