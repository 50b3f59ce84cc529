"""The folders that the service writes to: whether it may, and whether there is room."""

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from server.doctor.check import Check, ok, warning

_MIB = 2**20
_GB = 1e9
_WITHOUT_CACHE = "system prompts are read anew after each restart"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as it was found. ``problem`` says why nothing can be written there; ``held_bytes`` is what
    its files take."""

    path: Path
    exists: bool
    problem: str | None
    free_bytes: int | None
    held_bytes: int = 0


def look_at_folder(path: Path) -> Folder:
    """Try to write a file there; where the folder is not there yet, see whether it could be made."""
    nearest = next((place for place in (path, *path.parents) if place.exists()), Path("/"))
    free_bytes = None
    with contextlib.suppress(OSError):
        free_bytes = shutil.disk_usage(nearest).free
    exists = nearest == path
    return Folder(path, exists, _problem(nearest), free_bytes, _size_bytes(path) if exists else 0)


def judge_cache(folder: Folder | None, budget_bytes: int) -> Check:
    """``cache_dir``. Without it the service works, but forgets."""
    if not budget_bytes:
        return ok("cache_dir", "no prompts are kept: disk_cache_mib = 0")
    if folder is None:
        return warning("cache_dir", f"there is none: {_WITHOUT_CACHE}", "set cache_dir")
    if folder.problem is not None:
        return warning(
            "cache_dir",
            f"{folder.path} cannot be written ({folder.problem}): {_WITHOUT_CACHE}",
            "let cache_dir name a folder that this user may write",
        )
    found = _found(folder)
    missing_bytes = budget_bytes - folder.held_bytes - (folder.free_bytes or 0)
    if folder.free_bytes is not None and missing_bytes > 0:
        return warning(
            "cache_dir",
            f"{found}, less than disk_cache_mib = {budget_bytes // _MIB} allows it to grow to",
            "free some of the disk, or lower disk_cache_mib",
        )
    return ok("cache_dir", found)


def judge_models_dir(folder: Folder, missing_models_bytes: int) -> Check:
    """``models_dir``. Without the right to write there only pulling and creating models fails."""
    if folder.problem is not None:
        return warning(
            "models_dir",
            f"{folder.path} cannot be written ({folder.problem}): no model can be pulled or created",
            "let models_dir name a folder that this user may write, or give it the right to",
        )
    found = _found(folder)
    if folder.free_bytes is not None and folder.free_bytes < missing_models_bytes:
        return warning(
            "models_dir",
            f"{found}, but the missing models take {missing_models_bytes / _GB:.1f} GB",
            "free some of the disk, or let models_dir name a folder on another one",
        )
    return ok("models_dir", found)


def _problem(nearest: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return None
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)


def _size_bytes(folder: Path) -> int:
    total_bytes = 0
    for path in folder.glob("*"):
        # A file may go while one looks.
        with contextlib.suppress(OSError):
            total_bytes += path.stat().st_size
    return total_bytes


def _found(folder: Folder) -> str:
    there = "" if folder.exists else " is made when it is needed"
    free = "" if folder.free_bytes is None else f", {folder.free_bytes / _GB:.1f} GB free"
    return f"{folder.path}{there}{free}"
