"""Measures two replicas under Ray Serve on this machine: prefixes found, requests lost, the way in.

See docs/cluster.md. Exit codes: 0 all is well, 1 something is not (the report says what), 2 wrong usage.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench.cluster import report
from bench.cluster.report import Report
from bench.cluster.runs import kill_one, pour, replace_all, talk
from bench.machine import cpu_name, usable_cores
from bench.servers import PROJECT
from server import __version__
from server.cluster.installed import NotInstalled, check_installed

PAGE = PROJECT / "docs" / "cluster.md"
EMBEDDED = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
POLICIES = (("prefix", 2), ("round_robin", 1), ("least_loaded", 1))
"""Each with its number of ingresses: those of Ray know nothing of each other."""

PARTS = ("talk", "kill", "replace", "pour")
LATER_TURNS = 4


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench.cluster", description=(__doc__ or "").partition("\n")[0]
    )
    options.add_argument("--model", type=Path, default=EMBEDDED, help="GGUF file (the embedded model)")
    options.add_argument("--conversations", type=int, default=16, help="at the same time (16)")
    options.add_argument("--turns", type=int, default=6, help="of each (6)")
    options.add_argument("--only", choices=PARTS, action="append", help="these parts; default: all")
    options.add_argument("--write", action="store_true", help="put the report into docs/cluster.md")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        check_installed()
    except NotInstalled as error:
        print(error, file=sys.stderr)
        return 1
    found = _measured(options, options.only or PARTS)
    print(found.as_markdown())
    if options.write:
        report.write(PAGE, found)
    return 1 if found.faults else 0


def _measured(options: argparse.Namespace, parts: Sequence[str]) -> Report:
    model, number, turns = options.model, options.conversations, options.turns
    talked = [
        talk(model, policy, number, turns, ingresses) for policy, ingresses in POLICIES if "talk" in parts
    ]
    disturbed = []
    if "kill" in parts:
        disturbed.append(kill_one(model, number, LATER_TURNS))
    if "replace" in parts:
        disturbed.append(replace_all(model, number // 2, LATER_TURNS))
    poured = pour(model, number) if "pour" in parts else None
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Report(today, _facts(model), talked, disturbed, poured)


def _facts(model: Path) -> dict[str, str]:
    """What the figures hold for. No paths and no names of hosts."""
    return {
        "CPU": f"{cpu_name()}, {usable_cores()} cores",
        "model": model.name,
        "replicas": "2, on the same cores",
        "llm-optimizer": __version__,
        "Ray": version("ray"),
    }


if __name__ == "__main__":
    sys.exit(main())
