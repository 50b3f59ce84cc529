"""Build llama-cpp-python into this environment with flags that work on any machine, and show the progress.

LOCK is the lock file that names the version and its hash; STATE is a JSON file that says what is installed,
so that a build of minutes is done only when the version or a flag has changed.

CMAKE_ARGS from the environment is appended to the flags here, so the user's win; it is remembered beside
STATE, so that a later start without it does not undo a CUDA build.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

PACKAGE = "llama-cpp-python"
INCLUDE = Path(__file__).resolve().with_name("lean_llama_cpp.cmake")
FLAGS = (
    # The compiler would otherwise use whatever this CPU announces. Virtual machines announce AMX and then
    # kill the process that uses it; AVX2 stays on without it.
    "-DGGML_NATIVE=OFF",
    # Pictures and HTTPS inside llama.cpp: neither is used here.
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_OPENSSL=OFF",
    # A model may share other machines' memory: a library of 100 kB that nothing touches unless one does.
    "-DGGML_RPC=ON",
    f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={INCLUDE}",
)
STEP = re.compile(r"^\s*\[(\d+)/(\d+)\] (.*)")
SOURCE = re.compile(r" -c (\S+)")
PHASES = r"(?:Downloading|Configuring CMake|Building project|Installing project|Successfully)"
PHASE = re.compile(rf"^\s*(?:\*\*\* )?({PHASES}.*)")
LOG_LINES_SHOWN = 50
SECONDS_BETWEEN_LINES = 5.0


def locked_requirement(lock: Path) -> str:
    """The package's own lines of the lock file: name, version, hashes."""
    match = re.search(rf"^{PACKAGE}==(?:.*\\\n)*.*\n", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if not match:
        raise SystemExit(f"{lock} does not name {PACKAGE}")
    return match.group()


def read_state(path: Path) -> dict[str, str]:
    """What the last finished build wrote; empty when there was none."""
    with contextlib.suppress(OSError, ValueError):
        state = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(state, dict):
            return state
    return {}


def own_cmake_args(remembered: Path) -> str:
    """The user's flags: those of the environment, which are remembered, or those given last."""
    given = os.environ.get("CMAKE_ARGS")
    if given is not None:
        remembered.write_text(given.strip() + "\n", encoding="utf-8")
    with contextlib.suppress(FileNotFoundError):
        return remembered.read_text(encoding="utf-8").strip()
    return ""


class Progress:
    """Turns the compiler's output into one short line a step: all on a terminal, some of them in a log."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.shown = 0.0
        self.on_terminal = sys.stdout.isatty()

    def see(self, line: str) -> None:
        """Show what this line of pip's output says about the progress, if anything."""
        if phase := PHASE.match(line):
            self.write(f"    {phase[1][:90]}", last=True)
        elif step := STEP.match(line):
            done, total, command = step.groups()
            source = SOURCE.search(command)
            what = Path(source[1]).name if source else "linking"
            self.write(f"    [{done:>3}/{total}] {what}", last=done == total)

    def write(self, text: str, *, last: bool) -> None:
        """Print the text with the seconds so far; `last` keeps it on the terminal and always in a log."""
        now = time.monotonic()
        text = f"{text:<60} {now - self.started:4.0f} s"
        if self.on_terminal:
            print(f"\r{text:<78}", end="\n" if last else "", flush=True)
        elif last or now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            print(text, flush=True)


def build(requirement: str, cmake_args: str, log: Path) -> int:
    """Run pip, its whole output into the log file; its exit status comes back."""
    environment = os.environ | {"CMAKE_ARGS": cmake_args}
    environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(len(os.sched_getaffinity(0))))
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as wanted, log.open("w") as record:
        wanted.write(requirement)
        wanted.flush()
        # Without the cache: a wheel in it may have been built with other flags, and pip cannot tell.
        command = [sys.executable, "-m", "pip", "install", "--verbose", "--disable-pip-version-check"]
        command += ["--no-cache-dir", f"--no-binary={PACKAGE}", "--force-reinstall", "--no-deps"]
        command += ["--require-hashes", "--no-build-isolation", "--requirement", wanted.name]
        with subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as pip:
            progress = Progress()
            for line in pip.stdout or ():
                record.write(line)
                progress.see(line)
        return pip.returncode


def main() -> int:
    """Build when what is wanted is not what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="build even what is there already")
    parser.add_argument("lock", type=Path)
    parser.add_argument("state", type=Path)
    options = parser.parse_args()
    cmake_args = " ".join([*map(shlex.quote, FLAGS), own_cmake_args(options.state.with_name("cmake-args"))])
    wanted = {"requirement": locked_requirement(options.lock), "cmake_args": cmake_args.strip()}
    if wanted == read_state(options.state) and not options.force:
        return 0

    log = options.state.with_suffix(".log")
    print(f"==> Building {PACKAGE} (C++, some minutes; the full log is {log})")
    print(f"    CMAKE_ARGS: {wanted['cmake_args']}", flush=True)
    status = build(wanted["requirement"], wanted["cmake_args"], log)
    if status:
        with log.open(encoding="utf-8", errors="replace") as record:
            tail = deque(record, maxlen=LOG_LINES_SHOWN)
        print(f"\nThe build failed. The last {len(tail)} lines of {log}:\n", file=sys.stderr)
        sys.stderr.writelines(tail)
        print(f"\n{PACKAGE} was not built (exit status {status}); the whole output: {log}", file=sys.stderr)
        return 1
    options.state.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
