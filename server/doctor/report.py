"""The report, for people and for programs."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from server import __version__
from server.doctor.check import Check, Status
from server.doctor.examination import Report
from server.doctor.facts import Planned

SCHEMA_VERSION = 1

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAULT: "bold red"}
_STATUS_WIDTH = max(map(len, Status)) + 2
_COLUMNS = ("context", "weights", "KV", "compute", "margin", "total", "free")
_TABLE_WIDTH = 120
"""Where a terminal is narrower, it wraps: columns that have lost their numbers would be worse."""
_MIB = 2**20


def as_json(report: Report) -> str:
    """One JSON object; docs/operations.md tells its schema, which only grows within a version."""
    document: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "version": __version__,
        "status": report.status,
        "checks": [asdict(check) for check in report.checks],
        "plan": [{**asdict(planned), "fits": fits(planned)} for planned in report.plan],
    }
    return json.dumps(document, indent=2)


def show(report: Report) -> None:
    """Print a line for each check with its remedy below, then the plan as a table, then the counts."""
    width = max((len(check.label) for check in report.checks), default=0) + 2
    console = Console(highlight=False)
    console.width = max(console.width, _TABLE_WIDTH)
    for check in report.checks:
        for line in _lines(check, width):
            # Commands must stay whole, so that they can be copied: the terminal may wrap them, rich may not.
            console.print(line, soft_wrap=True)
    if report.plan:
        console.print()
        console.print(_table(report))
    console.print()
    console.print(_summary(report), soft_wrap=True)


def fits(planned: Planned) -> bool | None:
    """Whether the model has a place; None where nothing was planned."""
    if planned.running or planned.unreadable:
        return None
    return planned.refusal is None


def _lines(check: Check, width: int) -> Iterator[Text]:
    status = Text(f"{check.status:<{_STATUS_WIDTH}}", style=_STYLES[check.status])
    yield status + Text(f"{check.label:<{width}}{check.found}")
    if check.remedy is not None:
        yield Text(f"{'':<{_STATUS_WIDTH + width}}-> {check.remedy}")


def _table(report: Report) -> Table:
    table = Table(title="Plan (MiB)", title_justify="left", box=None, pad_edge=False)
    for name in ("role", "model", "device"):
        table.add_column(name, no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    for planned in report.plan:
        table.add_row(*_row(planned))
    return table


def _row(planned: Planned) -> tuple[str, ...]:
    sizes_bytes = (
        planned.weights_bytes,
        planned.kv_bytes,
        planned.compute_bytes,
        planned.margin_bytes,
        planned.total_bytes,
    )
    return (
        planned.role,
        planned.model,
        planned.device,
        "-" if planned.context_tokens is None else str(planned.context_tokens),
        *map(_mib_up, sizes_bytes),
        "-" if planned.free_bytes is None else str(planned.free_bytes // _MIB),
        _verdict(planned),
    )


def _verdict(planned: Planned) -> str:
    if planned.running:
        return {True: "loaded", False: "not loaded", None: "not told"}[planned.loaded]
    return {True: "yes", False: "NO", None: "?"}[fits(planned)]


def _mib_up(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else str(-(-size_bytes // _MIB))


def _summary(report: Report) -> Text:
    counts = {status: sum(check.status is status for check in report.checks) for status in Status}
    text = f"{counts[Status.FAULT]} faults, {counts[Status.WARNING]} warnings, {counts[Status.OK]} ok"
    return Text(text, style=_STYLES[report.status])
