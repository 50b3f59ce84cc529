"""Look whether llama.cpp can be built with CUDA here, before the long build starts, and say what lacks.

Prints the flags for CMake on its standard output (with --remembered beside those that the user gave, now in
CMAKE_ARGS or at an earlier build), all else on its standard error. Exit codes: 0 it can, 1 it cannot.

CUDACXX names another nvcc, CUDAHOSTCXX another C++ compiler for it. Needs nothing but Python.
"""

import argparse
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cuda_host import (
    TURING,
    Card,
    Driver,
    Facts,
    Room,
    Toolkit,
    gather,
    try_compiling,
)

USUAL_ARCHITECTURES = "61;75"
"""Of the cards that this project is made for: GTX 1050 and RTX 2060 SUPER."""

LAST_BRANCH_WITH_PASCAL = 580
GIB = 2**30
BUILD_BYTES, INSTALL_BYTES = 4 * GIB, 1 * GIB
"""Room that a build takes while it runs, and what is installed. Rough, and rather too much."""

ARCHIVE = "https://developer.nvidia.com/cuda-toolkit-archive"
ITEM = re.compile(r"(\d{2,3})[af]?(?:-real|-virtual)?")
OWN_FLAGS = (
    "GGML_CUDA",
    "CMAKE_CUDA_ARCHITECTURES",
    "CMAKE_CUDA_COMPILER",
    "CMAKE_CUDA_HOST_COMPILER",
)


@dataclass(frozen=True)
class Problem:
    """What lacks, and what to do about it."""

    found: str
    remedy: str

    def __str__(self) -> str:
        return f"  - {self.found}\n    {self.remedy}"


@dataclass(frozen=True)
class Decision:
    """What to build with, for which architectures, and ``why`` those. ``notes`` stop nobody."""

    architectures: str
    why: str
    toolkit: Toolkit | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def decide(facts: Facts) -> Decision:
    """What can be told without a trial."""
    architectures, why = choose_architectures(facts)
    wrong = wrong_architectures(architectures, facts.driver.cards)
    needed = needed_architectures(architectures, facts.driver.cards)
    toolkit = choose_toolkit(facts.toolkits, needed)
    problems = [
        *wrong,
        *toolkit_problems(toolkit, needed),
        *driver_problems(facts.driver, toolkit, needed),
        *(room_problem(room) for room in facts.rooms if room.free_bytes < room.needed_bytes),
    ]
    return Decision(architectures, why, toolkit, tuple(problems), tuple(notes(facts.driver, architectures)))


def choose_architectures(facts: Facts) -> tuple[str, str]:
    """What to build for, and why."""
    cards = facts.driver.cards
    found = sorted({card.architecture for card in cards if card.architecture is not None})
    here = ";".join(map(str, found))
    if facts.asked is not None and facts.asked.strip() != "native":
        return facts.asked.strip().strip(";"), "as you asked for"
    if found:
        return here, f"the cards here: {', '.join(map(described, cards))}"
    unknown = "the driver does not tell what the cards are" if cards else "no card was found"
    return USUAL_ARCHITECTURES, f"{unknown}, so for a GTX 1050 and an RTX 2060 (ARCHITECTURES=... for others)"


def wrong_architectures(text: str, cards: Sequence[Card]) -> list[Problem]:
    """What CMake would not understand."""
    if text in ("all", "all-major"):
        return []
    wrong = [item for item in text.split(";") if not ITEM.fullmatch(item)]
    if not wrong:
        return []
    example = ";".join(str(card.architecture) for card in cards if card.architecture) or USUAL_ARCHITECTURES
    return [
        Problem(
            f'ARCHITECTURES="{text}": CMake does not know {" ".join(map(repr, wrong))}',
            "write compute capabilities without their dot, parted by semicolons, in quotes: "
            f'make cuda ARCHITECTURES="{example}"',
        )
    ]


def needed_architectures(text: str, cards: Sequence[Card]) -> tuple[int, ...]:
    """The numbers in a list; of ``all`` those of the cards here."""
    if text in ("all", "all-major"):
        return tuple(card.architecture for card in cards if card.architecture is not None)
    items = [ITEM.fullmatch(item) for item in text.split(";")]
    return tuple(int(item[1]) for item in items if item)


def choose_toolkit(toolkits: Sequence[Toolkit], needed: Sequence[int]) -> Toolkit | None:
    """The first that has code for all; if none has, the first, whose shortcoming is told then."""
    suitable = [toolkit for toolkit in toolkits if not toolkit.lacks(needed)]
    return next(iter([*suitable, *toolkits]), None)


def toolkit_problems(toolkit: Toolkit | None, needed: Sequence[int]) -> list[Problem]:
    """Whether there is an nvcc, and whether it has code for the cards."""
    old = [number for number in needed if number < TURING]
    install = f"install a CUDA {'12 ' if old else ''}toolkit ({ARCHIVE})"
    if toolkit is None:
        because = f"; not CUDA 13, which has dropped what is below 7.5, such as {_list(old)}" if old else ""
        return [
            Problem("there is no nvcc", f"{install}{because}; or let CUDACXX name the nvcc that is there")
        ]
    lacking = toolkit.lacks(needed)
    if not lacking:
        return []
    if any(number < TURING for number in lacking):
        dropped = _list([number for number in lacking if number < TURING])
        rest = ";".join(str(number) for number in needed if number >= TURING)
        leave = f'; or leave it out: make cuda ARCHITECTURES="{rest}"' if rest else ""
        return [
            Problem(
                f"{toolkit} has no code for {dropped}: CUDA 13 has dropped what is below 7.5",
                f"{install}; it may stand beside the other, and CUDACXX names its nvcc{leave}",
            )
        ]
    return [Problem(f"{toolkit} has no code for {_list(lacking)}", "install a newer CUDA toolkit")]


def driver_problems(driver: Driver, toolkit: Toolkit | None, needed: Sequence[int]) -> list[Problem]:
    """Whether what is built would load and run here."""
    old = [number for number in needed if number < TURING]
    branch = f", branch {LAST_BRANCH_WITH_PASCAL} or older for a GTX 10xx" if old else ""
    if not driver.has_library:
        return [
            Problem(
                "there is no NVIDIA driver (libcuda.so.1), without which a build with CUDA does not load",
                f"install it first{branch}; nvidia-smi must show the cards",
            )
        ]
    problems = []
    if old and driver.branch is not None and driver.branch > LAST_BRANCH_WITH_PASCAL:
        rest = ";".join(str(number) for number in needed if number >= TURING)
        leave = f'; or leave it out: make cuda ARCHITECTURES="{rest}"' if rest else ""
        problems.append(
            Problem(
                f"driver {driver.version} has dropped Pascal and older, and {_list(old)} is wanted",
                f"install the driver's branch {LAST_BRANCH_WITH_PASCAL}{leave}",
            )
        )
    if driver.cuda and toolkit and toolkit.version and toolkit.version[0] > driver.cuda[0]:
        problems.append(
            Problem(
                f"{toolkit} is too new for driver {driver.version}, which supports CUDA up to "
                f"{driver.cuda[0]}.{driver.cuda[1]}",
                f"update the driver{branch}, or install a CUDA {driver.cuda[0]} toolkit",
            )
        )
    return problems


def room_problem(room: Room) -> Problem:
    """A disk that is too full."""
    free_gib, needed_gib = room.free_bytes / GIB, room.needed_bytes / GIB
    return Problem(
        f"{free_gib:.1f} GiB are free in {room.folder}, about {needed_gib:.0f} are needed",
        "make room, or let TMPDIR name a folder on another disk",
    )


def notes(driver: Driver, architectures: str) -> list[str]:
    """What is good to know."""
    if architectures in ("all", "all-major"):
        return ["this builds for every card there is, which takes many times as long"]
    built = needed_architectures(architectures, ())
    left_out = [
        card for card in driver.cards if card.architecture is not None and card.architecture not in built
    ]
    return [f"{described(card)} is left out: no model can run on it" for card in left_out]


def judge_trial(status: int, output: str, toolkit: Toolkit) -> list[Problem]:
    """What nvcc says of a program of three lines."""
    if status == 0:
        return []
    if found := re.search(r"unsupported (GNU|clang) version.*?(?:later than|between) .*?(\d+)", output, re.S):
        kind = "g++" if found[1] == "GNU" else "clang++"
        limit = re.search(r"later than (\d+)", output)
        older = f"{kind}-{limit[1]}" if limit else f"an older {kind}"
        return [
            Problem(
                f"{toolkit} does not accept the C++ compiler here: {_telling(output, 'unsupported')}",
                f"install {older} (Debian and Ubuntu: apt-get install {older}) and name it: "
                f"CUDAHOSTCXX={older} make cuda",
            )
        ]
    if "cublas_v2.h" in output:
        return [
            Problem(
                f"{toolkit} is there without cuBLAS",
                "install the toolkit's cuBLAS; where it lies elsewhere, name its files: CMAKE_ARGS="
                '"-DCMAKE_CUDA_FLAGS=-I.../include -DCUDA_cublas_LIBRARY=.../libcublas.so" make cuda',
            )
        ]
    if "exception specification" in output:
        return [
            Problem(
                f"{toolkit} does not know this system's C library: {_telling(output, 'exception spec')}",
                "install the newest toolkit of the same major version",
            )
        ]
    return [
        Problem(f"{toolkit} cannot compile: {_telling(output, 'error')}", "see what it says; is it whole?")
    ]


def cmake_flags(decision: Decision, host_compiler: str | None) -> list[str]:
    """For CMake."""
    flags = ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={decision.architectures}"]
    if decision.toolkit is not None:
        flags.append(f"-DCMAKE_CUDA_COMPILER={decision.toolkit.nvcc}")
    if host_compiler is not None:
        flags.append(f"-DCMAKE_CUDA_HOST_COMPILER={host_compiler}")
    return flags


def others(flags: str) -> list[str]:
    """Of the flags that were given before, those that are none of ours."""
    ours = re.compile(rf"-D({'|'.join(OWN_FLAGS)})(:\w+)?=")
    return [flag for flag in shlex.split(flags) if not ours.match(flag)]


def described(card: Card) -> str:
    """``GTX 1050 (6.1)``."""
    return f"{card.name} ({_capability(card.architecture)})" if card.architecture else card.name


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _capability(architecture: int) -> str:
    return f"{architecture // 10}.{architecture % 10}"


def _telling(output: str, word: str) -> str:
    """The line that says what is wrong."""
    lines = [line.strip() for line in output.strip().splitlines()] or ["it said nothing"]
    return next((line for line in lines if word in line), lines[-1])[:200]


def trial_problems(decision: Decision, facts: Facts, given: str) -> list[Problem]:
    """What comes of a trial, where a toolkit is there that should do."""
    cards, toolkit = facts.driver.cards, decision.toolkit
    needed = needed_architectures(decision.architectures, cards)
    if toolkit is None or toolkit.lacks(needed) or wrong_architectures(decision.architectures, cards):
        return []
    return judge_trial(*try_compiling(toolkit, needed, nvcc_flags(given)), toolkit)


def own_flags(remembered: Path | None) -> str:
    """What the user gave: now, or at an earlier build."""
    given = os.environ.get("CMAKE_ARGS")
    if given is not None or remembered is None or not remembered.exists():
        return given or ""
    return remembered.read_text(encoding="utf-8")


def host_compiler_of(flags: str) -> str | None:
    """The C++ compiler that nvcc is to use, where the user named one."""
    return os.environ.get("CUDAHOSTCXX") or flag_of("CMAKE_CUDA_HOST_COMPILER", flags)


def nvcc_flags(given: str) -> list[str]:
    """What the user's flags for CMake are for nvcc: another compiler, folders of headers."""
    host_compiler = host_compiler_of(given)
    host = ["-ccbin", host_compiler] if host_compiler else []
    return [*host, *shlex.split(flag_of("CMAKE_CUDA_FLAGS", given) or "")]


def flag_of(name: str, flags: str) -> str | None:
    """What a variable of CMake is set to."""
    set_to = re.compile(rf"-D{name}(?::\w+)?=(.*)")
    return next((found[1] for flag in shlex.split(flags) if (found := set_to.match(flag))), None)


def tell(decision: Decision, driver: Driver) -> None:
    """What was found, for the reader."""
    cards = ", ".join(map(described, driver.cards)) or "none found"
    print(f"    cards: {cards}; driver {driver.version or 'unknown'}", file=sys.stderr)
    print(f"    toolkit: {decision.toolkit or 'none found'}", file=sys.stderr)
    print(f"    builds for {decision.architectures}: {decision.why}", file=sys.stderr)
    for note in decision.notes:
        print(f"    note: {note}", file=sys.stderr)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--architectures", metavar="LIST", help='such as "61;75"; default: those of the cards here'
    )
    parser.add_argument(
        "--remembered", type=Path, metavar="FILE", help="flags of an earlier build, to be kept"
    )
    parser.add_argument("--install-in", metavar="DIR", help="where what is built goes")
    return parser.parse_args()


def main() -> int:
    """Look, decide, try, and print the flags."""
    options = parsed()
    print("==> Looking at what a build with CUDA needs", file=sys.stderr)
    folders = {tempfile.gettempdir(): BUILD_BYTES}
    if options.install_in:
        folders[options.install_in] = INSTALL_BYTES
    facts = gather(options.architectures or None, folders, os.environ)
    decision = decide(facts)
    tell(decision, facts.driver)
    given = own_flags(options.remembered)
    problems = [*decision.problems, *trial_problems(decision, facts, given)]
    if problems:
        print("This machine lacks what a build with CUDA needs:", *problems, sep="\n", file=sys.stderr)
        return 1
    kept = others(given) if options.remembered else []
    print(shlex.join([*kept, *cmake_flags(decision, host_compiler_of(given))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
