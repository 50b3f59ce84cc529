"""Shows with a real NVIDIA card what otherwise is only computed; see docs/gpu-check.md.

    python -m bench.gpu_check sources   downloads llama.cpp's sources
    python -m bench.gpu_check build     does so, and builds llama.cpp for the card, with llama-bench
    python -m bench.gpu_check check     runs all parts and prints what they find
    python -m bench.gpu_check           all of it

Without a card everything that needs none really runs, on small models. Exit codes: 0 no fault, 1 a fault,
2 it cannot be run.
"""

import argparse
import datetime
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from bench.build_llama_server import LOCK, PACKAGE, BuildFailed, cache_folder, locked_requirement
from bench.gpu_check import report
from bench.gpu_check.build import Build, build, finished
from bench.gpu_check.cards import Place, places
from bench.gpu_check.examine import Setting, examine
from bench.gpu_check.parts import CannotRun, Clock, Findings, mib
from bench.gpu_check.report import Report, Status
from bench.gpu_check.sources import VOCABULARY, fetch
from bench.gpu_check.subjects import FILES_BYTES, write_subjects
from bench.machine import cpu_name, usable_cores
from bench.servers import PROJECT
from server import __version__
from server.engine.gguf.reader import read_header
from server.gpu.nvml import Nvml, open_nvml

PAGE = PROJECT / "docs" / "gpu-check.md"
EMBEDDED = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CANNOT_RUN = 2
SHOWN_LINES = 40


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("step", nargs="?", choices=("sources", "build", "check"), help="only this one")
    options.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="of sources, builds and models; default: in the user's cache",
    )
    options.add_argument(
        "--sources", type=Path, metavar="DIR", help="sources that are here; none are downloaded"
    )
    options.add_argument(
        "--architectures", metavar="LIST", help='to build for, as "61;75"; default: the cards here'
    )
    options.add_argument(
        "--device", choices=("auto", "cpu"), default="auto", help="cpu: leave the cards alone"
    )
    options.add_argument(
        "--card",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="as nvidia-smi counts; given twice, the second one is the helper's",
    )
    options.add_argument(
        "--minutes", type=float, default=8, metavar="N", help="longest time of the check (8)"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write what was found there as well")
    options.add_argument("--write", action="store_true", help="put the table into docs/gpu-check.md")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check, or both."""
    options = parser().parse_args(arguments)
    # Whoever ends the check wants all of it to end: the service, the ballast and the files.
    signal.signal(signal.SIGTERM, _leave)
    folder = (options.folder or cache_folder().parent / "gpu-check").absolute()
    nvml = open_nvml()
    try:
        if options.step == "sources":
            print(fetch(folder / "sources"))
            return 0
        where = places(() if options.device == "cpu" else nvml.devices(), options.card)
        if options.step != "check":
            make(folder, options, where)
        return 0 if options.step == "build" else check(folder, options, nvml, where)
    except (CannotRun, BuildFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_RUN
    finally:
        nvml.close()


def make(folder: Path, options: argparse.Namespace, where: dict[str, Place]) -> Build:
    """Build for the cards, or for the CPU where there is none and no architectures are named."""
    on_card = _on_card(where) or options.architectures is not None
    sources = options.sources or fetch(folder / "sources")
    print(
        f"==> Building llama.cpp and llama-bench for {'CUDA' if on_card else 'the CPU'} (minutes, once)",
        flush=True,
    )
    started_s = time.monotonic()
    target = _build_folder(folder, on_card)
    try:
        done = build(sources, target, options.architectures, on_card)
    except BuildFailed:
        print(_end_of(target / "build.log"), file=sys.stderr)
        raise
    print(
        f"    built after {time.monotonic() - started_s:.0f} s: {done.cuda_architectures or 'CPU'}",
        flush=True,
    )
    return done


def check(folder: Path, options: argparse.Namespace, nvml: Nvml, where: dict[str, Place]) -> int:
    """Run all parts, and tell what was found. Raises CannotRun."""
    on_card, started_s = _on_card(where), time.monotonic()
    built = finished(_build_folder(folder, on_card))
    if built is None and (on_card or find_spec("llama_cpp") is None):
        raise CannotRun("nothing is built yet: the step build does that")
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < FILES_BYTES[on_card]:
        raise CannotRun(
            f"{mib(free)} are free in {folder}, {mib(FILES_BYTES[on_card])} are needed: name another --folder"
        )
    clock = Clock(options.minutes * 60)
    findings = Findings(clock, lambda finding: print(finding, flush=True))
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as run:
        subjects = write_subjects(Path(run) / "files", where, _texts(options.sources or folder / "sources"))
        examine(Setting(subjects, built, nvml, Path(run), clock), findings)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = Report(today, time.monotonic() - started_s, on_card, facts(nvml, where, built), findings.all)
    tell(found, options)
    return 0 if found.status is Status.OK else 1


def tell(found: Report, options: argparse.Namespace) -> None:
    """Print the table, and write what is to be written."""
    print(f"\n{found.as_markdown()}\n{found.status}")
    if options.json is not None:
        options.json.write_text(found.as_json(), encoding="utf-8")
    if options.write:
        try:
            report.write(PAGE, found)
        except ValueError as error:
            raise CannotRun(f"the table was not written: {error}") from error


def facts(nvml: Nvml, where: dict[str, Place], built: Build | None) -> dict[str, str]:
    """What the figures hold for. No paths and no names of hosts."""
    cards = {place.card.index: place.card for place in where.values() if place.card}
    driver = {"driver": f"{nvml.driver_version}, CUDA up to {nvml.cuda_version}"} if cards else {}
    return {
        **{
            f"card {index}": f"{card.name}, {card.compute_capability}, {mib(card.memory_total_bytes or 0)}"
            for index, card in cards.items()
        },
        **driver,
        "build": (built.cuda_architectures or "CPU") if built else "the installed one",
        "CPU": f"{cpu_name()}, {usable_cores()} cores",
        "llm-optimizer": __version__,
        "llama-cpp-python": _binding_version(built),
    }


def _texts(sources: Path) -> dict[str, Any]:
    """The real models' vocabulary; without sources the embedded model's, filled up. Raises CannotRun."""
    for path in (sources / VOCABULARY, EMBEDDED):
        if path.exists():
            return dict(read_header(path).metadata)
    raise CannotRun(
        "no vocabulary is here: python -m bench.gpu_check build brings one, and so does make install"
    )


def _end_of(log: Path) -> str:
    """Where a machine is lent for minutes nobody may have another look at its files."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-SHOWN_LINES:])


def _on_card(where: dict[str, Place]) -> bool:
    return any(place.card for place in where.values())


def _build_folder(folder: Path, on_card: bool) -> Path:
    return folder / ("build-cuda" if on_card else "build-cpu")


def _binding_version(built: Build | None) -> str:
    """Of what the service loads: what was built here is always the locked one."""
    if built is None:
        return version(PACKAGE)
    requirement = locked_requirement(LOCK.read_text(encoding="utf-8"))
    return requirement.partition("==")[2].split()[0]


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
