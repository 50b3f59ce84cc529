"""Keeps a real server busy with all that clients do, and sees whether it stays right, alive and as large.

See docs/soak.md. Exit codes: 0 all is well, 1 something is not (the report says what), 2 wrong usage.
"""

import argparse
import asyncio
import datetime
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from bench.machine import cpu_name, usable_cores
from bench.servers import PROJECT
from bench.soak import report
from bench.soak.changing import Reloading
from bench.soak.findings import Findings
from bench.soak.judging import log_faults
from bench.soak.own_server import BODY_MIB, KEYS, Setup, running_server, stop_fault
from bench.soak.plans import Key
from bench.soak.report import Report, judge_growth
from bench.soak.run import Soak, Terms
from server import __version__

PAGE = PROJECT / "docs" / "soak.md"
MIB = 2**20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench.soak", description=(__doc__ or "").partition("\n")[0]
    )
    options.add_argument("--minutes", type=float, default=60, help="how long to ask (60)")
    options.add_argument("--clients", type=int, default=16, help="how many ask at once (16)")
    options.add_argument("--seed", type=int, default=1, help="another number asks other things (1)")
    options.add_argument("--write", action="store_true", help="put the report into docs/soak.md")
    server = options.add_mutually_exclusive_group()
    server.add_argument("--config", type=Path, help="TOML file for the server; without: the embedded model")
    server.add_argument("--url", help="a server that runs already; its process is neither watched nor ended")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; returns the exit code."""
    options = parser().parse_args(arguments)
    # Whoever ends the run wants all of it to end: the server and its files.
    signal.signal(signal.SIGTERM, _leave)
    findings = _soak(options)
    judge_growth(findings, options.minutes * 60)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = Report(today, options.minutes, options.clients, facts(), findings)
    print(f"\n{found.as_markdown()}\n{'ok' if found.good else 'FAILED'}")
    if options.write:
        report.write(PAGE, found)
    return 0 if found.good else 1


def facts() -> dict[str, str]:
    """What the figures hold for. No paths and no names of hosts."""
    return {
        "CPU": f"{cpu_name()}, {usable_cores()} cores",
        "llm-optimizer": __version__,
        "llama-cpp-python": version("llama-cpp-python"),
    }


def _soak(options: argparse.Namespace) -> Findings:
    if options.url:
        soak = Soak(options.url, _terms(options, _given_keys(), alone=False), None)
        asyncio.run(soak.run())
        return soak.findings
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return _soak_own_server(options, Path(folder))


def _soak_own_server(options: argparse.Namespace, folder: Path) -> Findings:
    """Start a server, keep it busy, and stop it as a user does."""
    setup, own = Setup(folder), options.config is None
    if own:
        setup.make()
        terms = _terms(options, KEYS, body_bytes=BODY_MIB * MIB)
    else:
        terms = _terms(options, _given_keys())
    config_file = setup.config_file if own else options.config
    with running_server(config_file, setup.log_file) as (url, process):
        soak = Soak(url, terms, process.pid)
        soak.reloading = Reloading(soak.asker, process.pid, setup.log_file, setup if own else None)
        asyncio.run(soak.run())
        _judge_end(soak.findings, process, setup.log_file)
    return soak.findings


def _judge_end(findings: Findings, process: subprocess.Popen[bytes], log_file: Path) -> None:
    if fault := stop_fault(process):
        findings.fail(fault)
    lines = log_file.read_text(errors="replace").splitlines()
    for fault in log_faults(lines, findings.events["reloads of wrong files"]):
        findings.fail(fault)


def _terms(
    options: argparse.Namespace, keys: Mapping[Key, str], *, alone: bool = True, body_bytes: int | None = None
) -> Terms:
    return Terms(options.clients, options.minutes * 60, options.seed, keys, alone, body_bytes)


def _given_keys() -> dict[Key, str]:
    """The administrator's key of a server that is not set up here; it serves for all requests."""
    key = os.environ.get("LLM_OPTIMIZER_API_KEY")
    return {Key.USE: key, Key.ADMIN: key} if key else {}


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
