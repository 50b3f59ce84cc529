"""Builds llama.cpp's llama-server from the very sources that the service's binding is built from.

    .venv/bin/python -m bench.build_llama_server

Prints the program's path. What is built lies in the user's cache folder and is used again until the
locked version or a flag changes.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
LOCK = PROJECT / "requirements" / "base.txt"
PACKAGE = "llama-cpp-python"
SOURCES = Path("vendor") / "llama.cpp"
TARGET = "llama-server"
DONE = "built"

# Not -march=native: virtual machines announce instructions that kill the process that uses them. The
# binding is built the same way and takes these instructions by itself.
INSTRUCTIONS = ("GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_FMA", "GGML_F16C", "GGML_BMI2")
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)


class BuildFailed(Exception):
    """The program could not be built; the text says which step failed and where its output is."""


def built_llama_server() -> Path:
    """The program, built first if it is not there. Raises BuildFailed."""
    return built(TARGET, build_flags(platform.machine()), "about ten minutes")


def built(target: str, flags: tuple[str, ...], takes: str) -> Path:
    """The program of that name, built with ``flags`` if it is not there. Raises BuildFailed."""
    requirement = locked_requirement(LOCK.read_text(encoding="utf-8"))
    folder = cache_folder() / key(requirement, flags)
    program = folder / "bin" / target
    if (folder / DONE).exists() and program.exists():
        return program
    print(f"==> Building {target} (C++, {takes}, once)", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        sources = unpacked(downloaded(requirement, Path(scratch)), Path(scratch))
        build(sources / SOURCES, folder, flags, target)
    (folder / DONE).touch()
    return program


def locked_requirement(lock: str) -> str:
    """The package's own lines of a lock file: name, version, hashes. Raises BuildFailed."""
    found = re.search(rf"^{PACKAGE}==(?:.*\\\n)*.*\n", lock, re.MULTILINE)
    if not found:
        raise BuildFailed(f"the lock file does not name {PACKAGE}")
    return found[0]


def build_flags(machine: str) -> tuple[str, ...]:
    """What CMake is given on this kind of machine."""
    instructions = INSTRUCTIONS if machine in {"x86_64", "AMD64"} else ()
    return (*FLAGS, *(f"-D{name}=ON" for name in instructions))


def key(requirement: str, flags: tuple[str, ...]) -> str:
    """A folder name that changes whenever something else would be built."""
    return hashlib.sha256("\n".join((requirement, *flags)).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where finished builds are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "llm-optimizer" / "bench-llama-server"


def downloaded(requirement: str, folder: Path) -> Path:
    """The source archive, its hash checked by pip. Raises BuildFailed."""
    wanted = folder / "requirement.txt"
    wanted.write_text(requirement, encoding="utf-8")
    options = ["--no-deps", f"--no-binary={PACKAGE}", "--no-build-isolation", "--require-hashes", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options]
    run([*command, "--requirement", str(wanted), "--dest", str(folder)], folder.parent)
    archives = list(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise BuildFailed(f"pip brought no source archive of {PACKAGE}")
    return archives[0]


def unpacked(archive: Path, folder: Path) -> Path:
    """The folder that the archive holds. Raises BuildFailed for one that is not a single folder."""
    target = folder / "sources"
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter="data")
    folders = list(target.iterdir())
    if len(folders) != 1:
        raise BuildFailed(f"{archive.name} does not hold one folder")
    return folders[0]


def build(sources: Path, folder: Path, flags: tuple[str, ...], target: str) -> None:
    """Configure afresh and compile. Raises BuildFailed."""
    run(["cmake", "--fresh", "-G", "Ninja", "-S", str(sources), "-B", str(folder), *flags], folder)
    cores = str(len(os.sched_getaffinity(0)))
    run(["cmake", "--build", str(folder), "--target", target, "--parallel", cores], folder)


def run(command: list[str], folder: Path) -> None:
    """Run a step; its output goes to the end of ``folder``/build.log. Raises BuildFailed."""
    log = folder / "build.log"
    # cmake and ninja lie beside this Python.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    with log.open("ab") as output:
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PATH": path}, check=False
        )
    if done.returncode != 0:
        raise BuildFailed(f"{command[0]} ended with {done.returncode}; its output is at the end of {log}")


if __name__ == "__main__":
    try:
        print(built_llama_server())
    except BuildFailed as error:
        sys.exit(f"error: {error}")
