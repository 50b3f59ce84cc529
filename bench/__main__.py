"""Compares this service with llama.cpp's llama-server and writes bench/results/MODEL.json and .png.

    python -m bench [--model GGUF]... [--scenario NAME]... [--quick]

Without --llama-server the program is built first, from the sources that the service itself is
built from; that takes some minutes, once.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from bench import report
from bench.build_llama_server import BuildFailed, built_llama_server
from bench.captures import read_session
from bench.machine import facts, processor_time, share_of_others, usable_cores
from bench.prompts import Prompter
from bench.report import Result
from bench.scenarios import SCENARIOS
from bench.servers import PROJECT, CannotStart
from bench.stage import Scenario, Skipped, Stage
from bench.wire import AnswerFailed, EndedEarly
from server.domain.errors import ModelLoadFailed
from server.engine.gguf.reader import read_header

EMBEDDED = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
RESULTS = PROJECT / "bench" / "results"
CAPTURES = PROJECT.parent / "shared" / "cline-captures" / "s2-big"
QUICK_REPETITIONS = 2
NAMES = tuple(scenario.name for scenario in SCENARIOS)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--model", type=Path, action="append", metavar="GGUF", help="default: the embedded model"
    )
    options.add_argument(
        "--llama-server", type=Path, metavar="BIN", help="this program; it is not built then"
    )
    options.add_argument("--scenario", choices=NAMES, action="append", metavar="NAME", help=", ".join(NAMES))
    options.add_argument("--repetitions", type=_at_least_one, metavar="N", help="of each scenario")
    options.add_argument(
        "--threads", type=_at_least_one, metavar="N", help="of each server; default: all cores"
    )
    options.add_argument(
        "--captures", type=Path, default=CAPTURES, metavar="DIR", help="a recorded session: NNN.json"
    )
    options.add_argument(
        "--quick", action="store_true", help="shorter prompts, fewer repetitions: a first look"
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 when it could be run, whatever the figures are."""
    options = parser().parse_args(arguments)
    try:
        binary = options.llama_server or built_llama_server()
        for model in options.model or [EMBEDDED]:
            compare_on(model.resolve(), binary.resolve(), options)
    except (BuildFailed, ModelLoadFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def compare_on(model: Path, binary: Path, options: argparse.Namespace) -> None:
    """All wanted scenarios on one model; prints the table and writes the result files."""
    machine = facts(binary, options.threads or usable_cores())
    wanted = [scenario for scenario in SCENARIOS if scenario.name in (options.scenario or NAMES)]
    with tempfile.TemporaryDirectory() as folder:
        stage = new_stage(model, binary, options, Path(folder))
        # Here, before the long work: all else goes without matplotlib, which only `make bench` installs.
        from bench.plot import draw  # noqa: PLC0415

        results = [run(scenario, repeating(stage, scenario, options)) for scenario in wanted]
    print(f"\n{model.stem}" + "".join(f"\n  {name}: {fact}" for name, fact in machine.items()))
    print(f"\n{report.table(results)}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{model.stem}.json").write_text(
        report.as_json(results, model.stem, machine), encoding="utf-8"
    )
    draw(results, model.stem, RESULTS / f"{model.stem}.png")


def new_stage(model: Path, binary: Path, options: argparse.Namespace, folder: Path) -> Stage:
    """What the scenarios work with. Raises ModelLoadFailed for a file that is no model."""
    header = read_header(model)
    return Stage(
        model=model,
        binary=binary,
        threads=options.threads or usable_cores(),
        repetitions=options.repetitions or 0,
        quick=options.quick,
        window_tokens=header.context_length or 0,
        prompter=Prompter(model),
        session=read_session(options.captures),
        folder=folder,
    )


def repeating(stage: Stage, scenario: Scenario, options: argparse.Namespace) -> Stage:
    """The stage with as many repetitions as the flags or the scenario say."""
    usual = min(scenario.repetitions, QUICK_REPETITIONS) if options.quick else scenario.repetitions
    return replace(stage, repetitions=options.repetitions or usual)


def run(scenario: Scenario, stage: Stage) -> Result:
    """One scenario, with a line of progress before and after it. Its failure does not end the others."""
    print(f"{scenario.name:<18} {scenario.what} ...", end="", flush=True)
    started_s, before = perf_counter(), processor_time()
    try:
        measured = asyncio.run(scenario.run(stage))
    except Skipped as reason:
        return _without_figures(scenario, f"skipped: {reason}")
    except (CannotStart, AnswerFailed, EndedEarly, TimeoutError) as reason:
        return _without_figures(scenario, f"failed: {reason!r}")
    print(f" {measured.ratio:.2f} ({scenario.bar}) after {perf_counter() - started_s:.0f} s")
    return Result(scenario, measured, others=share_of_others(before, processor_time()))


def _without_figures(scenario: Scenario, why: str) -> Result:
    print(f" {why}")
    return Result(scenario, None, why)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
