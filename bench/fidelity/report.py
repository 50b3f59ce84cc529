"""What the parts found: tables and verdicts as markdown, and everything as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """Rows under ``columns``; ``note`` says how they were measured."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """A figure and the bar that it is held to."""

    what: str
    figure: str
    bar: str
    met: bool


@dataclass(frozen=True)
class Found:
    """What one part found. ``figures`` are what the plot draws and the JSON holds beside the tables."""

    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


def markdown(found: Mapping[str, Found], facts: Mapping[str, str]) -> str:
    """Verdicts first, then each part's tables."""
    verdicts = [verdict for part in found.values() for verdict in part.verdicts]
    rows = [(one.what, one.figure, one.bar, "met" if one.met else "MISSED") for one in verdicts]
    lines = ["# Fidelity and cost", "", *(f"- {name}: {fact}" for name, fact in facts.items()), ""]
    lines += _table(Table("Bars", ("what", "measured", "bar", ""), tuple(rows)))
    for part in found.values():
        for table in part.tables:
            lines += _table(table)
    return "\n".join(lines).rstrip() + "\n"


def as_json(found: Mapping[str, Found], facts: Mapping[str, str]) -> str:
    """All of it for programs."""
    parts = {
        name: {
            "bars": [vars(verdict) for verdict in part.verdicts],
            "tables": [
                {"title": table.title, "columns": table.columns, "rows": table.rows} for table in part.tables
            ],
            "figures": part.figures,
        }
        for name, part in found.items()
    }
    return json.dumps({"run": dict(facts), "parts": parts}, indent=2, ensure_ascii=False) + "\n"


def percent(share: float) -> str:
    """A share as text, with a decimal where only that tells it from all."""
    return f"{share:.1%}" if 0.99 <= share < 1 else f"{share:.0%}"  # noqa: PLR2004


def _table(table: Table) -> Sequence[str]:
    lines = [f"## {table.title}", ""]
    lines += [_row(table.columns), _row(["---"] * len(table.columns)), *map(_row, table.rows), ""]
    return [*lines, table.note, ""] if table.note else lines


def _row(cells: Sequence[Cell]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _text(cell: Cell) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell).replace("|", "\\|")
