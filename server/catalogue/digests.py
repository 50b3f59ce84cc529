"""Which sha256 a model's file should have, by what is written down here."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from server.catalogue.entries import Entry
from server.catalogue.known import Known

SUMS = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


@dataclass(frozen=True, slots=True)
class Expected:
    """The digest that a file should have, and who says so."""

    sha256: str
    source: str
    size_bytes: int | None = None


def expected_digest(entry: Entry, known: Known | None) -> Expected | None:
    """What is known of the file: by the model's record; by the list, if the file bears the name that the list
    gives; or by a ``SHA256SUMS`` beside it."""
    path = entry.settings.path
    if entry.record is not None and entry.record.sha256 is not None:
        return Expected(entry.record.sha256, "the record of its download", entry.record.size_bytes)
    if known is not None and known.sha256 is not None and path.name in (known.saved_as, known.file):
        return Expected(known.sha256, "models/catalogue.toml", known.size_bytes)
    sums = path.with_name(SUMS)
    summed = sums_in(sums).get(path.name)
    return None if summed is None else Expected(summed, str(sums))


def sums_in(sums: Path) -> dict[str, str]:
    """Digests by the names of their files, as ``sha256sum`` writes them; empty where there are none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = map(_SUM.fullmatch, sums.read_text(encoding="utf-8").splitlines())
        return {match[2]: match[1].lower() for match in found if match is not None}
    return {}
