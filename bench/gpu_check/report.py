"""What the check has found: one line for each of its parts, as text, as a Markdown table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

BEGIN = "<!-- figures: python -m bench.gpu_check --write -->\n"
NONE_YET = "No figures of a real card exist yet.\n"


class Status(StrEnum):
    """How a part went."""

    OK = "ok"
    FAULT = "fault"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the check; ``said`` is for the reader, ``figures`` for programs, units in their names."""

    name: str
    status: Status
    said: str
    figures: Mapping[str, float | str | None] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}: {self.status}: {self.said}"


@dataclass(frozen=True, slots=True)
class Report:
    """All parts of one run, and what they hold for (``facts``: names and values for the reader)."""

    date: str
    seconds: float
    on_card: bool
    facts: Mapping[str, str]
    findings: Sequence[Finding]

    @property
    def status(self) -> Status:
        """A fault where one part has one; skipped parts are none."""
        faulty = any(finding.status is Status.FAULT for finding in self.findings)
        return Status.FAULT if faulty else Status.OK

    def as_json(self) -> str:
        """One object."""
        return json.dumps({"schema": 1, "status": self.status, **asdict(self)}, indent=2) + "\n"

    def as_markdown(self) -> str:
        """A dated section with a table."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.facts.items())
        rows = [f"| {one.name} | {one.status} | {_cell(one.said)} |" for one in self.findings]
        where = "on a card" if self.on_card else "without a card"
        head = f"### {self.date}, {where}\n\n{facts}. It took {self.seconds:.0f} s.\n"
        return "\n".join([head, "| part | | found |", "|---|---|---|", *rows]) + "\n"


def written_into(page: str, report: Report) -> str:
    """The page with the run's section as the first of its figures.

    Raises ValueError for a page that has no place for them.
    """
    before, begin, after = page.partition(BEGIN)
    if not begin:
        raise ValueError(f"the page lacks the line {BEGIN.strip()}")
    if report.on_card:
        before = before.replace(NONE_YET, "")
    return f"{before}{begin}\n{report.as_markdown()}{after}"


def write(page: Path, report: Report) -> None:
    """Put the run's figures on the page."""
    page.write_text(written_into(page.read_text(encoding="utf-8"), report), encoding="utf-8")


def _cell(said: str) -> str:
    return " ".join(said.replace("|", "\\|").split())
