"""How much memory the host has left for a model that runs on the CPU."""

from pathlib import Path, PurePosixPath


def available_ram_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be taken without swapping, within the limits of the control groups (v2).

    None where the system does not tell, as everywhere but on Linux.
    """
    available_bytes = _mem_available_bytes(proc / "meminfo")
    if available_bytes is None:
        return None
    return min([available_bytes, *_cgroup_rooms_bytes(proc / "self" / "cgroup", cgroups)])


def _mem_available_bytes(meminfo: Path) -> int | None:
    kibibytes = _fields(meminfo).get("MemAvailable:")
    return None if kibibytes is None else kibibytes * 1024


def _cgroup_rooms_bytes(membership: Path, cgroups: Path) -> list[int]:
    """What each control group above this process has left; groups without a limit are left out."""
    group = next((line[3:] for line in _text(membership).splitlines() if line.startswith("0::")), None)
    if group is None:
        return []
    path = PurePosixPath(group)
    folders = [cgroups / str(folder).lstrip("/") for folder in (path, *path.parents)]
    rooms = (_cgroup_room_bytes(folder) for folder in folders)
    return [room for room in rooms if room is not None]


def _cgroup_room_bytes(folder: Path) -> int | None:
    limit_bytes = _number(folder / "memory.max")
    used_bytes = _number(folder / "memory.current")
    if limit_bytes is None or used_bytes is None:
        return None
    # the page cache of files nobody reads is given back under pressure
    reclaimable_bytes = _fields(folder / "memory.stat").get("inactive_file", 0)
    return max(0, limit_bytes - used_bytes + reclaimable_bytes)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _fields(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
