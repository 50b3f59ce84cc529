"""Compiles the stand-in for NVIDIA's library and runs programs against it.

The bindings load the library by its name, and the loader reads LD_LIBRARY_PATH when a process
starts. So whoever is to see the fake must be a child process started with ``environment()``.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

LIBRARY_NAME = "libnvidia-ml.so.1"
REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("fake_nvml.c")

NOT_SUPPORTED = 3
DRIVER_NOT_LOADED = 9
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
VERSION_MISMATCH = 18
UNKNOWN_TO_THE_BINDINGS = 777

TOTAL_MIB = (8192, 2048)
NAMES = ("NVIDIA GeForce RTX 2060 SUPER", "NVIDIA GeForce GTX 1050")
PCI_BUS_IDS = ("0000:01:00.0", "0000:0a:00.0")


@dataclass(frozen=True, slots=True)
class FakeNvml:
    """A compiled fake: the folder it lies in, and the script that it reads anew at each call."""

    folder: Path
    script: Path

    def order(self, *lines: str) -> None:
        """Replace the script, whose lines fake_nvml.c explains."""
        part = self.script.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in lines))
        # At once: a server may be reading it.
        part.replace(self.script)

    def environment(self) -> dict[str, str]:
        """The environment for a child process that is to see the fake."""
        return {
            **os.environ,
            "LD_LIBRARY_PATH": f"{self.folder}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "FAKE_NVML_SCRIPT": str(self.script),
            "PYTHONPATH": str(REPOSITORY),
        }

    def run(self, program: str) -> str:
        """What a Python program prints that sees the fake; its failure is the test's."""
        command = [sys.executable, "-W", "error", "-c", program]
        child = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert child.returncode == 0, child.stderr
        return child.stdout


def compile_fake_nvml(folder: Path) -> Path:
    """Compile the library into the folder and return the folder; skips the test without a compiler."""
    return compile_library(folder, SOURCE, LIBRARY_NAME)


def compile_library(folder: Path, source: Path, name: str) -> Path:
    """The same for any stand-in."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    options = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{name}"]
    subprocess.run([compiler, *options, "-o", str(folder / name), str(source)], check=True)
    return folder
