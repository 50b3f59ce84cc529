"""Tables for people, JSON for programs, and sizes and times in words."""

import datetime
import json
from collections.abc import Sequence
from typing import Any

import typer

_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SPANS = (("day", 86_400), ("hour", 3600), ("minute", 60))
_FOR_EVER_DAYS = 3650
_TEN = 10


def print_json(value: Any) -> None:
    """As a program reads it, and a person can."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table without lines; the columns in ``right`` hold numbers. No cell is cut off: where the terminal is
    narrower, it wraps."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    wanted = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.width = max(console.width, wanted)
    console.print(table)


def size(size_bytes: int) -> str:
    """Three digits and a unit."""
    for unit, unit_bytes in _UNITS:
        if size_bytes >= unit_bytes:
            amount = size_bytes / unit_bytes
            return f"{amount:.1f} {unit}" if amount < _TEN else f"{amount:.0f} {unit}"
    return f"{size_bytes} B"


def ago(text: str, now: datetime.datetime) -> str:
    """How long a moment is over, or ahead: "3 hours ago", "in 4 minutes", "forever"."""
    seconds = (datetime.datetime.fromisoformat(text) - now).total_seconds()
    if seconds > _FOR_EVER_DAYS * 86_400:
        return "forever"
    span = _span(abs(seconds))
    return f"in {span}" if seconds > 0 else f"{span} ago"


def now() -> datetime.datetime:
    """This moment, with its time zone."""
    return datetime.datetime.now(datetime.UTC)


def _span(seconds: float) -> str:
    for name, length_s in _SPANS:
        if seconds >= length_s:
            count = int(seconds // length_s)
            return f"{count} {name}" + ("s" if count > 1 else "")
    return f"{seconds:.0f} seconds"
