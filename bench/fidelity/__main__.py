"""Measures what shortening loses and costs; writes bench/results/fidelity.md, .json and .png.

    python -m bench.fidelity [--model GGUF] [--captures DIR] [--quick] [--only PART]...

Four parts: recall (of facts, by code alone), needles, likelihood and cost (these three ask the model).
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from bench.fidelity import cost_part, likelihood_part, needles_part, recall_part
from bench.fidelity.methods import scale_of
from bench.fidelity.report import Found, as_json, markdown
from bench.fidelity.sessions import recorded_sessions
from bench.fidelity.stage import Stage
from bench.machine import usable_cores
from bench.prompts import Prompter
from bench.servers import PROJECT
from server import __version__
from server.domain.errors import EngineFailed, ModelLoadFailed

EMBEDDED = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
RESULTS = PROJECT / "bench" / "results"
CAPTURES = PROJECT.parent / "shared" / "cline-captures"

PARTS: Mapping[str, Callable[[Stage], Found]] = {
    "recall": recall_part.measure,
    "needles": needles_part.measure,
    "likelihood": likelihood_part.measure,
    "cost": cost_part.measure,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench.fidelity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--model", type=Path, default=EMBEDDED, metavar="GGUF", help="answers; default: the embedded model"
    )
    options.add_argument(
        "--helper",
        type=Path,
        default=EMBEDDED,
        metavar="GGUF",
        help="of the naive pipeline; default: the same",
    )
    options.add_argument(
        "--captures", type=Path, default=CAPTURES, metavar="DIR", help="folders of recorded requests NNN.json"
    )
    options.add_argument("--quick", action="store_true", help="fewer sessions, shorter prompts: a first look")
    options.add_argument("--only", choices=PARTS, action="append", metavar="PART", help=", ".join(PARTS))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 0 when they could be run, whatever the figures are."""
    options = parser().parse_args(arguments)
    try:
        stage = new_stage(options)
        found = {name: part(stage) for name, part in PARTS.items() if name in (options.only or PARTS)}
    except (ModelLoadFailed, EngineFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write(found, facts(stage))
    return 0


def new_stage(options: argparse.Namespace) -> Stage:
    """What the parts work with. Raises ModelLoadFailed for a file that is no model."""
    prompter = Prompter(options.model)
    return Stage(
        model=options.model,
        helper=options.helper,
        prompter=prompter,
        scale=scale_of(prompter),
        recorded=tuple(recorded_sessions(options.captures)),
        quick=options.quick,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )


def facts(stage: Stage) -> dict[str, str]:
    """What to know about the results."""
    return {
        "model": stage.model.stem,
        "helper of the naive pipeline": stage.helper.stem,
        "recorded sessions": ", ".join(session.name for session in stage.recorded) or "none found",
        "extent": "quick" if stage.quick else "full",
        "cores": str(usable_cores()),
        "llm-optimizer": __version__,
        "llama-cpp-python": version("llama-cpp-python"),
    }


def write(found: Mapping[str, Found], about: Mapping[str, str]) -> None:
    """Print the tables, and leave them beside the picture."""
    text = markdown(found, about)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fidelity.md").write_text(text, encoding="utf-8")
    (RESULTS / "fidelity.json").write_text(as_json(found, about), encoding="utf-8")
    # Here, after the tables: all else goes without matplotlib, which only `make fidelity` installs.
    from bench.fidelity.plot import draw  # noqa: PLC0415

    draw({name: part.figures for name, part in found.items()}, about["model"], RESULTS / "fidelity.png")


if __name__ == "__main__":
    sys.exit(main())
