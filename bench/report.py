"""A model's results as a table, and as JSON that says what they hold for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import Measured, Spread
from bench.stage import Scenario

COLUMNS = ("scenario", "figure", "ours", "llama-server", "ratio", "quartiles", "bar", "met")
SIGNIFICANT = 3
QUIET = 0.05


@dataclass(frozen=True)
class Result:
    """A scenario, and what came of it: figures, or in ``skipped`` why there are none.

    ``others`` is the share of the cores' time that other programs took meanwhile, from 0 to 1.
    """

    scenario: Scenario
    measured: Measured | None
    skipped: str = ""
    others: float = 0.0


def table(results: Sequence[Result]) -> str:
    """Plain text with one line for each result, and the notes below."""
    rows = [COLUMNS, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    notes = [f"  {result.scenario.name}: {note}" for result in results for note in _notes(result)]
    return "\n".join(line.rstrip() for line in (*lines, *(["notes:", *notes] if notes else [])))


def as_json(results: Sequence[Result], model: str, facts: Mapping[str, str]) -> str:
    """Everything that was measured, each repetition on its own."""
    body = {
        "model": model,
        "machine": dict(facts),
        "scenarios": {result.scenario.name: _object(result) for result in results},
    }
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _row(result: Result) -> tuple[str, ...]:
    scenario, measured = result.scenario, result.measured
    if measured is None:
        return (scenario.what, scenario.figure, "-", "-", "-", "-", str(scenario.bar), "-")
    ours, theirs = (Spread.of(values).median for values in (measured.ours, measured.theirs))
    spread = f"{measured.ratios.low:.2f} to {measured.ratios.high:.2f}"
    met = "yes" if scenario.bar.is_met(measured.ratio) else "NO"
    ratio = f"{measured.ratio:.2f}"
    return (
        scenario.what,
        scenario.figure,
        _short(ours),
        _short(theirs),
        ratio,
        spread,
        str(scenario.bar),
        met,
    )


def _notes(result: Result) -> list[str]:
    if result.measured is None:
        return [result.skipped]
    busy = [f"other programs took {result.others:.0%} of the cores"] if result.others > QUIET else []
    return [*result.measured.notes, *busy]


def _object(result: Result) -> dict[str, Any]:
    scenario, measured = result.scenario, result.measured
    described = {"what": scenario.what, "figure": scenario.figure, "bar": str(scenario.bar)}
    if measured is None:
        return {**described, "skipped": result.skipped}
    compared = {} if measured.against is None else {"divided_by": _rounded(measured.against)}
    return {
        **described,
        "ours": _rounded(measured.ours),
        "llama_server": _rounded(measured.theirs),
        **compared,
        "ratio": round(measured.ratio, 4),
        "ratio_quartiles": _rounded((measured.ratios.low, measured.ratios.high)),
        "met": scenario.bar.is_met(measured.ratio),
        "notes": list(measured.notes),
        "others": round(result.others, 3),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _short(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    whole_digits = len(f"{abs(value):.0f}")
    return f"{value:.{max(SIGNIFICANT - whole_digits, 0)}f}" if abs(value) >= 1 else f"{value:.3f}"
