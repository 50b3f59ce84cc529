"""What this machine has for a build with CUDA: cards, driver, toolkits, room on its disks.

Only looks; :mod:`check_cuda` judges. Needs nothing but Python.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TURING = 75
FIRST_CUDA_WITHOUT_PASCAL = 13
TOOLKITS = Path("/usr/local")
LOOK_S, TRIAL_S = 30, 300
TRIAL = """\
#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <cmath>
#include <vector>
__global__ void trial(float * x) { *x = sqrtf(*x); }
"""


@dataclass(frozen=True)
class Card:
    """``architecture`` is its compute capability as CMake writes it: 61 for 6.1; None where unknown."""

    name: str
    architecture: int | None


@dataclass(frozen=True)
class Driver:
    """``branch`` is the first part of the version; ``cuda`` the newest version that it supports, such as
    (12, 4). ``has_library``: libcuda.so.1 is there, without which a build with CUDA does not even load."""

    version: str | None
    cuda: tuple[int, int] | None
    has_library: bool
    cards: tuple[Card, ...] = ()

    @property
    def branch(self) -> int | None:
        """580 of 580.95.05."""
        number = (self.version or "").partition(".")[0]
        return int(number) if number.isdecimal() else None


@dataclass(frozen=True)
class Toolkit:
    """An nvcc that was found. ``architectures`` are what it has code for; empty: it does not say."""

    nvcc: str
    version: tuple[int, int] | None
    architectures: frozenset[int] = frozenset()

    def lacks(self, wanted: Sequence[int]) -> list[int]:
        """Those of the architectures that it cannot build for."""
        if self.architectures:
            return [number for number in wanted if number not in self.architectures]
        dropped = self.version is not None and self.version[0] >= FIRST_CUDA_WITHOUT_PASCAL
        return [number for number in wanted if dropped and number < TURING]

    def __str__(self) -> str:
        version = ".".join(map(str, self.version)) if self.version else "of unknown version"
        return f"CUDA {version} ({self.nvcc})"


@dataclass(frozen=True)
class Room:
    """A folder, what is free there, and what is needed."""

    folder: str
    free_bytes: int
    needed_bytes: int


@dataclass(frozen=True)
class Facts:
    """All that is known before anything is compiled. ``asked`` None: the user named no architectures."""

    asked: str | None
    driver: Driver
    toolkits: tuple[Toolkit, ...]
    rooms: tuple[Room, ...] = ()


def gather(asked: str | None, folders: Mapping[str, int], environment: Mapping[str, str]) -> Facts:
    """Look at driver, toolkits and disks; ``folders`` has the bytes that are needed in each."""
    rooms = tuple(Room(folder, shutil.disk_usage(folder).free, needed) for folder, needed in folders.items())
    return Facts(asked, look_at_driver(), tuple(look_at_toolkits(environment)), rooms)


def look_at_driver() -> Driver:
    """By nvidia-smi, as far as it is there and works."""
    # An old driver does not know compute_cap.
    rows = asked_of_cards("driver_version,compute_cap,name") or asked_of_cards("driver_version,name")
    cards = tuple(Card(row[-1], _architecture(row[1])) for row in rows)
    cuda = re.search(r"CUDA (?:\w+ )?Version:\s*(\d+)\.(\d+)", said("nvidia-smi")) if rows else None
    return Driver(
        rows[0][0] if rows else None, (int(cuda[1]), int(cuda[2])) if cuda else None, has_libcuda(), cards
    )


def asked_of_cards(fields: str) -> list[list[str]]:
    """A row for each card; a name, which may hold whatever it likes, comes last."""
    rows = said("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader").splitlines()
    return [row.split(", ", fields.count(",")) for row in rows if row.count(", ") >= fields.count(",")]


def has_libcuda() -> bool:
    """Whether the driver's library is there."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def look_at_toolkits(environment: Mapping[str, str], beside: Path = TOOLKITS) -> list[Toolkit]:
    """Each nvcc here: the one that CUDACXX names, or that of PATH, and those that are installed beside it."""
    named = environment.get("CUDACXX")
    if named:
        found = [shutil.which(named)]
    else:
        homes = [environment[name] for name in ("CUDA_PATH", "CUDA_HOME") if environment.get(name)]
        folders = [*homes, str(beside / "cuda"), *map(str, sorted(beside.glob("cuda-*"), reverse=True))]
        found = [shutil.which("nvcc"), *(shutil.which(f"{folder}/bin/nvcc") for folder in folders)]
    return [look_at_toolkit(nvcc) for nvcc in dict.fromkeys(filter(None, found))]


def look_at_toolkit(nvcc: str) -> Toolkit:
    """What an nvcc says of itself."""
    version = re.search(r"release (\d+)\.(\d+)", said(nvcc, "--version"))
    numbers = re.findall(r"compute_(\d+)", said(nvcc, "--list-gpu-arch"))
    return Toolkit(
        nvcc, (int(version[1]), int(version[2])) if version else None, frozenset(map(int, numbers))
    )


def try_compiling(toolkit: Toolkit, needed: Sequence[int], flags: Sequence[str]) -> tuple[int, str]:
    """Compile a few lines for those architectures: nvcc knows best which compilers it accepts.

    ``flags`` are more of nvcc's own. Its exit status and its words come back.
    """
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in needed]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cu"
        source.write_text(TRIAL, encoding="utf-8")
        command = [toolkit.nvcc, "-std=c++17", *flags, *codes, "-c", str(source), "-o", f"{source}.o"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_S, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            return 1, str(error)
    return done.returncode, done.stdout + done.stderr


def said(*command: str) -> str:
    """What a program prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOOK_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _architecture(capability: str) -> int | None:
    found = re.fullmatch(r"(\d+)\.(\d)", capability.strip())
    return int(found[1] + found[2]) if found else None
