"""Child processes that may die without taking the doctor with them, and what their deaths mean."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REBUILD = "build it anew with this project's flags (GGML_NATIVE=OFF): make rebuild-binding"
CUDA_BUILD = 'make cuda ARCHITECTURES="{architectures}"'

USUAL_ARCHITECTURES = "61;75"
"""Of the cards that the default settings are made for."""

_HERE = Path(__file__).resolve().parents[2]
"""Where this very package is found first, whatever lies in the current folder."""
_LONGEST_WORDS = 300


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended. ``status`` is its exit status, minus the signal that killed it, or None where it
    did not end in time."""

    status: int | None
    stdout: str = ""
    stderr: str = ""

    @property
    def last_words(self) -> str:
        """The last line that it wrote to its standard error, which in Python names the error."""
        lines = self.stderr.strip().splitlines()
        return lines[-1][:_LONGEST_WORDS] if lines else "it said nothing"


def run_child(
    module: str, *arguments: str, stdin: str, timeout_s: float, environment: Mapping[str, str]
) -> Ended:
    """Run a module of this package as a program of its own, to its end, whatever that is."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        child = subprocess.run(  # noqa: S603
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            cwd=_HERE,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ended(None)
    return Ended(child.returncode, child.stdout, child.stderr)


def cause_of_death(ended: Ended) -> tuple[str, str]:
    """What happened to a child that did not end with status 0, and the remedy."""
    if ended.status is None:
        return "does not come to an end", f"is the machine overloaded, or a card hung? If not, {REBUILD}"
    if ended.status >= 0:
        return f"fails: {ended.last_words}", _remedy_of_error(ended.stderr)
    return _death_by(-ended.status, ended)


def _remedy_of_error(stderr: str) -> str:
    if "libcuda.so" in stderr:
        return (
            "this build needs the NVIDIA driver, which is not there: install it, or build without GGML_CUDA"
        )
    if "libcudart" in stderr or "libcublas" in stderr:
        return (
            "this build needs the libraries of the CUDA toolkit that it was built with: install that "
            "version, and let LD_LIBRARY_PATH or ldconfig name its folder"
        )
    if "No module named" in stderr:
        return "install what is missing: make install"
    return REBUILD


def _death_by(number: int, ended: Ended) -> tuple[str, str]:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    died = f"dies of {name}"
    if "no kernel image is available" in ended.stderr:
        return f"{died}: the build has no code for this card", _for_this_card()
    if "out of memory" in ended.stderr:
        return f"{died}: the card is out of memory", "see which other programs hold its memory: nvidia-smi"
    match name:
        case "SIGILL":
            return (
                f"{died}: this CPU lacks an instruction that the build uses",
                f"{REBUILD}; should that die as well, without the newer instructions (slower): "
                'CMAKE_ARGS="-DGGML_AVX2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF -DGGML_BMI2=OFF" make install',
            )
        case "SIGSEGV":
            return (
                f"{died}, most often a build for another CPU: with GGML_NATIVE=ON on a virtual machine that "
                "announces AMX but does not let it be used",
                REBUILD,
            )
        case "SIGKILL":
            return f"{died}: most likely the system ran out of memory (see dmesg)", "free some memory"
        case _:
            return f"{died}: {ended.last_words}", REBUILD


def _for_this_card() -> str:
    build = CUDA_BUILD.format(architectures=USUAL_ARCHITECTURES)
    return f"name the card's architecture when building, such as 61;75 for 6.1 and 7.5: {build}"
