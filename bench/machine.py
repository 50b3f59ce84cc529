"""Facts about the machine and the programs that a result holds for. No paths, no names of hosts."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from server import __version__


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def facts(binary: Path, threads: int) -> dict[str, str]:
    """What to know about a result, by name."""
    return {
        "cpu": _cpu_name(),
        "cores": str(usable_cores()),
        "threads of each server": str(threads),
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "llm-optimizer": __version__,
        "llama-cpp-python": version("llama-cpp-python"),
        "llama-server": llama_server_version(binary),
    }


def llama_server_version(binary: Path) -> str:
    """What the program says about itself, on one line."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    lines = (said.stdout + said.stderr).splitlines()
    return next((line.removeprefix("version: ") for line in lines if line.startswith("version: ")), "unknown")


class OtherPrograms:
    """How much of the cores' time others have taken since this was made."""

    def __init__(self) -> None:
        self._before = _processor_seconds()

    def share(self) -> float:
        """From 0 to 1. Processes of our own count as others until they have ended."""
        total, busy, own = (now - then for now, then in zip(_processor_seconds(), self._before, strict=True))
        return min(max(busy - own, 0.0) / total, 1.0) if total else 0.0


def _processor_seconds() -> tuple[float, float, float]:
    """All cores together since the machine started: all time, time in use, and time used by us."""
    first_line = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    # user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in user already.
    ticks = [int(field) for field in first_line.split()[1:9]]
    per_s = os.sysconf("SC_CLK_TCK")
    idle = ticks[3] + ticks[4]
    return sum(ticks) / per_s, (sum(ticks) - idle) / per_s, sum(os.times()[:4])


def _cpu_name() -> str:
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"^model name\s*:\s*(.+)$", cpus, re.MULTILINE)
    return name[1] if name else platform.processor() or "unknown"
