"""``python -m server.cluster``: try the cluster out on one machine, or check a configuration file for one.

On several machines Ray's own commands do the work: ``ray start`` and ``serve deploy``, see docs/cluster.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from server.cluster.checking import Findings, checked
from server.cluster.installed import NotInstalled, check_installed
from server.cluster.terms import Terms, terms_of
from server.config import ConfigError

OK, FAILED, WRONG_USE = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m server.cluster", description=(__doc__ or "").partition("\n")[0].partition(": ")[2]
    )
    commands = options.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="serve with several replicas on this machine until Ctrl-C",
        description="SIGHUP replaces all replicas one after the other, as serve deploy does.",
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="TOML file of every replica")
    run.add_argument("--listen", default="127.0.0.1:8000", metavar="HOST:PORT", help="%(default)s")
    run.add_argument("--replicas", type=int, default=2, metavar="N", help="services (%(default)s)")
    run.add_argument("--ingresses", type=int, default=2, metavar="N", help="(%(default)s)")
    run.add_argument("--policy", default="prefix", help="prefix, round_robin or least_loaded (%(default)s)")
    run.add_argument("--temp-dir", type=Path, metavar="DIR", help="a short path for Ray's files")
    check = commands.add_parser("check", help="say what is wrong with a configuration file for serve deploy")
    check.add_argument("file", type=Path)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; returns the exit code: 0 well, 1 it does not work, 2 wrong use."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "check":
            return _told(checked(options.file))
        terms = terms_of(
            {"config": options.config and options.config.absolute(), "listen": options.listen}
            | {"policy": options.policy}
        )
        return _run(options, terms)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return WRONG_USE
    except NotInstalled as error:
        print(error, file=sys.stderr)  # noqa: T201
        return FAILED


def _run(options: argparse.Namespace, terms: Terms) -> int:
    check_installed()
    # Only now: it imports Ray.
    from server.cluster.running import run  # noqa: PLC0415

    run(terms, options.replicas, options.ingresses, options.temp_dir)
    return OK


def _told(findings: Findings) -> int:
    for fault in findings.faults:
        print(fault, file=sys.stderr)  # noqa: T201
    for note in findings.notes:
        print(note)  # noqa: T201
    return FAILED if findings.faults else OK


if __name__ == "__main__":
    sys.exit(main())
