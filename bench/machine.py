"""Facts about the machine and the programs that a result holds for. No paths, no names of hosts."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from server import __version__


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def facts(binary: Path, threads: int) -> dict[str, str]:
    """What to know about a result, by name."""
    return {
        "cpu": cpu_name(),
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


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of all cores together: that have passed, that were in use, and that we used."""

    total_s: float
    busy_s: float
    own_s: float


def processor_time() -> ProcessorTime:
    """Since the machine started. Processes of our own count as others' until they have ended."""
    first_line = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    # user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in user already.
    ticks = [int(field) for field in first_line.split()[1:9]]
    per_s = os.sysconf("SC_CLK_TCK")
    idle = ticks[3] + ticks[4]
    return ProcessorTime(sum(ticks) / per_s, (sum(ticks) - idle) / per_s, sum(os.times()[:4]))


def share_of_others(before: ProcessorTime, after: ProcessorTime) -> float:
    """How much of the cores' time between the two other programs took, from 0 to 1."""
    total_s = after.total_s - before.total_s
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(max(others_s, 0.0) / total_s, 1.0) if total_s else 0.0


def cpu_name() -> str:
    """As the system calls it."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"^model name\s*:\s*(.+)$", cpus, re.MULTILINE)
    return name[1] if name else platform.processor() or "unknown"
