"""The model files: there, readable, and the right ones."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.catalogue import Catalogue, Entry, Installed
from server.catalogue.digests import Expected, expected_digest
from server.catalogue.files import sha256_of
from server.catalogue.known import Known, find_known
from server.doctor.check import Check, fault, ok, warning
from server.domain.errors import ModelLoadFailed

EMBEDDED = Path(__file__).resolve().parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Where ``make install`` puts the small model."""

_CHEAP_BYTES = 2**28
"""Read within a second, even from a slow disk."""
_DOWNLOAD = ".venv/bin/python scripts/download_models.py"


@dataclass(frozen=True, slots=True)
class ModelSight:
    """What was seen of a model's file. ``problem`` says why it cannot be read; ``sha256`` None: not taken."""

    entry: Entry
    exists: bool
    problem: str | None
    summary: str
    expected: Expected | None
    sha256: str | None


def look_at_models(catalogue: Catalogue, *, verify: bool) -> tuple[ModelSight, ...]:
    """All models that have a file of their own.

    ``verify`` takes the digest of each; otherwise only of small files whose digest is known.
    """
    further = (entry for entry in catalogue.entries() if entry.role is None)
    own = [*catalogue.configured_here, *further]
    digest_of = functools.cache(sha256_of)
    return tuple(_look_at(entry, catalogue, digest_of, verify=verify) for entry in own)


def smallest_model(catalogue: Catalogue) -> Path | None:
    """The quickest model to try, of all that are here; None without any."""
    installed = (model for model in catalogue.installed() if not model.entry.settings.is_elsewhere)
    here = [model.entry.settings.path for model in installed if not model.embeds]
    if EMBEDDED.is_file():
        here.append(EMBEDDED)
    return min(here, key=lambda path: path.stat().st_size, default=None)


def judge_model(sight: ModelSight, known: Known | None, default_folder: Path) -> Check:
    """Whether a model can be served. A further model that cannot is only a warning."""
    judged = fault if sight.entry.is_configured else warning
    subject, path = _subject(sight.entry), sight.entry.settings.path
    if sight.problem is not None:
        again = fetching(sight.entry, known, default_folder)
        remedy = f"remove the file, then {again}" if sight.exists else again
        return judged("model", sight.problem, remedy, subject=subject)
    found = f"{sight.entry.name.display}, {sight.summary}, {path}"
    if sight.sha256 is None:
        hint = "" if sight.expected is None else "; sha256 not checked (--verify)"
        return ok("model", found + hint, subject=subject)
    if sight.expected is None:
        return ok(
            "model", f"{found}; sha256 {sight.sha256}, nothing here to hold it against", subject=subject
        )
    if sight.sha256 != sight.expected.sha256:
        return judged(
            "model",
            f"{found}; its sha256 is {sight.sha256}, and by {sight.expected.source} it should be "
            f"{sight.expected.sha256}",
            f"remove the file, then {fetching(sight.entry, known, default_folder)}",
            subject=subject,
        )
    return ok("model", f"{found}; sha256 as in {sight.expected.source}", subject=subject)


def fetching(entry: Entry, known: Known | None, default_folder: Path) -> str:
    """What brings a model's file, or whatever else helps."""
    path = entry.settings.path
    if entry.is_configured and path.name == EMBEDDED.name:
        return f"make install, which puts it into {EMBEDDED.parent}"
    if not entry.is_configured:
        return f"ollama pull {entry.name.display}, or ollama rm {entry.name.display}"
    if known is not None and known.role == entry.section and path.name == known.saved_as:
        folder = "" if path.parent == default_folder else f" --dir {path.parent}"
        return f"{_DOWNLOAD} {known.role}{folder}"
    if known is not None:
        return f"ollama pull {entry.name.display}, or let {entry.section}.path name a GGUF"
    return f"put the GGUF there, or let {entry.section}.path name one"


def _look_at(
    entry: Entry, catalogue: Catalogue, digest_of: Callable[[Path], str], *, verify: bool
) -> ModelSight:
    path = entry.settings.path
    expected = expected_digest(entry, find_known(catalogue.known, entry.name))
    try:
        installed = catalogue.inspect(entry)
        worth_it = verify or (expected is not None and path.stat().st_size <= _CHEAP_BYTES)
        sha256 = digest_of(path) if worth_it else None
    except (ModelLoadFailed, OSError) as error:
        return ModelSight(entry, path.exists(), str(error), "", expected, None)
    return ModelSight(entry, True, None, _summary(installed), expected, sha256)


def _summary(installed: Installed) -> str:
    header = installed.header
    parts = (header.architecture, header.file_type_name, f"{header.size_bytes / 1e6:.0f} MB")
    return " ".join(part for part in parts if part)


def _subject(entry: Entry) -> str:
    return entry.section if entry.is_configured else entry.name.display
