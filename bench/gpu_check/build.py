"""Builds llama.cpp once for both sides: the libraries that the service loads, and llama-bench."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.build_llama_server import LOCK, PROJECT, BuildFailed, build_flags, locked_requirement, run
from bench.gpu_check.sources import LLAMA_CPP

TARGETS = ("llama", "llama-bench")
RECIPE = Path(__file__).parent
FLAGS = (
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DCMAKE_INSTALL_RPATH_USE_LINK_PATH=ON",
)


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build in ``folder``. ``cuda_architectures``: what it has code for; empty: the CPU alone."""

    folder: Path
    cuda_architectures: str

    @property
    def python_path(self) -> Path:
        """Where Python finds the binding with these libraries, if it looks there first."""
        return self.folder / "python"

    @property
    def llama_bench(self) -> Path:
        """The program of that name."""
        return self.folder / "bin" / "llama-bench"


def finished(folder: Path) -> Build | None:
    """The build in this folder; None where none came to its end."""
    try:
        return Build(folder, json.loads(_stamp(folder).read_text(encoding="utf-8"))["architectures"])
    except (OSError, ValueError, KeyError):
        return None


def build(sources: Path, folder: Path, architectures: str | None, cuda: bool) -> Build:
    """Build unless that very thing is there. Without ``architectures`` those of the cards here count, and
    CMAKE_ARGS from the environment as everywhere.

    Raises BuildFailed; for what is missing on this machine before anything is compiled.
    """
    given = shlex.split(os.environ.get("CMAKE_ARGS", ""))
    flags = (*build_flags(platform.machine()), *FLAGS, *given, *(cuda_flags(architectures) if cuda else ()))
    done = Build(folder, architectures_of(flags))
    wanted = {
        "requirement": locked_requirement(LOCK.read_text(encoding="utf-8")),
        "flags": list(flags),
        "architectures": done.cuda_architectures,
    }
    if _is_stamped(folder, wanted):
        return done
    folder.mkdir(parents=True, exist_ok=True)
    _stamp(folder).unlink(missing_ok=True)
    cores = str(len(os.sched_getaffinity(0)))
    here = ["-S", str(RECIPE), "-B", str(folder), f"-DLLAMA_CPP={(sources / LLAMA_CPP).absolute()}"]
    run(["cmake", "--fresh", "-G", "Ninja", *here, *flags], folder)
    run(["cmake", "--build", str(folder), "--parallel", cores, "--target", *TARGETS], folder)
    make_importable(sources, folder)
    _stamp(folder).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    return done


def cuda_flags(architectures: str | None) -> tuple[str, ...]:
    """What CMake is told about CUDA. Raises BuildFailed with the remedies where it cannot work here."""
    wanted = [] if architectures is None else ["--architectures", architectures]
    checked = subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "check_cuda.py"), *wanted],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if checked.returncode != 0:
        raise BuildFailed("CUDA cannot be built for on this machine, see above")
    return tuple(shlex.split(checked.stdout))


def architectures_of(flags: tuple[str, ...]) -> str:
    """What the flags have code made for; empty without CUDA."""
    name = "-DCMAKE_CUDA_ARCHITECTURES="
    return next((flag.removeprefix(name) for flag in flags if flag.startswith(name)), "")


def make_importable(sources: Path, folder: Path) -> None:
    """The binding's Python files beside these libraries: it looks for them in its own folder."""
    package = folder / "python" / "llama_cpp"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(sources / "llama_cpp", package)
    (package / "lib").symlink_to(folder.absolute() / "bin", target_is_directory=True)


def _stamp(folder: Path) -> Path:
    return folder / "built.json"


def _is_stamped(folder: Path, wanted: Mapping[str, object]) -> bool:
    try:
        return bool(json.loads(_stamp(folder).read_text(encoding="utf-8")) == wanted)
    except (OSError, ValueError):
        return False
