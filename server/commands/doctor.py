"""``doctor``: whether this machine can run the service."""

from pathlib import Path
from typing import Annotated

import typer

from server.commands.configured import settings_of, wrong_ones_end_it
from server.commands.failing import FAILED


def doctor(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with the settings, as serve has it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all model files and check their sha256; takes a while.")
    ] = False,
) -> None:
    """Look whether this machine can run the service, and say what to do where it cannot.

    Exit codes: 0 no fault (warnings may be), 1 faults, 2 wrong configuration.

    \b
    Examples:
      llm-optimizer doctor
      llm-optimizer doctor --config /etc/llm-optimizer.toml --verify
    """
    settings = settings_of(config, {})
    from server.doctor.check import Status
    from server.doctor.examination import examine
    from server.doctor.report import as_json as json_of
    from server.doctor.report import show

    with wrong_ones_end_it():
        report = examine(settings, config, verify=verify)
    if as_json:
        typer.echo(json_of(report))
    else:
        show(report)
    if report.status is Status.FAULT:
        raise typer.Exit(FAILED)
