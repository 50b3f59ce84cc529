"""The run as a table: what was asked, what came of it, and each thing that was judged with its limit."""

import collections
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.soak.findings import Findings, Sample
from bench.soak.judging import STEADY, Steady, Trend, course, taken_mib, trend

BEGIN = "<!-- figures: python -m bench.soak --write -->\n"
NONE_YET = "No figures exist yet.\n"
SHOWN_ERRORS = 20
SHOWN = ("answered", "refused", "hung up", "failed")
WARM_UP_PART = 0.25


@dataclass(frozen=True)
class Row:
    """One thing that was judged, or only looked at (``allowed`` is empty)."""

    what: str
    found: str
    allowed: str = ""


@dataclass(frozen=True)
class Report:
    """One run. ``facts`` are what its figures hold for."""

    date: str
    minutes: float
    clients: int
    facts: Mapping[str, str]
    findings: Findings

    @property
    def good(self) -> bool:
        """Whether nothing was wrong."""
        return not self.findings.errors

    def as_markdown(self) -> str:
        """A dated section with two tables."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.facts.items())
        verdict = "all well" if self.good else "NOT well"
        head = f"### {self.date}, {self.minutes:g} minutes, {self.clients} clients: {verdict}\n\n{facts}.\n"
        parts = [head, *judged_table(self.findings), "", *request_table(self.findings)]
        return "\n".join([*parts, *_errors(self.findings)]) + "\n"


def judge_growth(findings: Findings, duration_s: float) -> None:
    """Note as errors what grew beyond its limit after the warm-up."""
    for steady, found in growths(findings.samples, duration_s * WARM_UP_PART):
        if found.grew(steady.most_growth):
            grown = f"{found.last - found.first:.{steady.digits}f}"
            findings.fail(f"{steady.what}: grew by {grown}, and {steady.most_growth:g} is allowed")


def growths(samples: Sequence[Sample], warm_up_s: float) -> list[tuple[Steady, Trend]]:
    """What must be flat, and how it developed; nothing where there are too few samples."""
    found = [(steady, trend(samples, warm_up_s, steady.figure)) for steady in STEADY]
    return [(steady, developed) for steady, developed in found if developed is not None]


def judged_table(findings: Findings) -> list[str]:
    """What was judged, as lines of Markdown."""
    rows = [
        Row("unexpected errors", str(findings.errors.total()), "0"),
        Row("requests", f"{findings.outcomes.total()}"),
        Row("tokens", f"{findings.prompt_tokens} of prompts, {findings.generated_tokens} generated"),
    ]
    if first := findings.first_token_s:
        rows.append(
            Row("first token", f"median {statistics.median(first):.2f} s, longest {max(first):.2f} s")
        )
    rows += _growth_rows(findings.samples)
    rows.append(Row("longest silence of the page's events", f"{findings.longest_silence_s:.1f} s", "20 s"))
    rows += [Row(what, str(count)) for what, count in sorted(findings.events.items())]
    rows += [Row(f"most {name}", str(value)) for name, value in sorted(findings.most.items())]
    return [
        "| what | found | allowed |",
        "|---|---|---|",
        *(f"| {r.what} | {r.found} | {r.allowed} |" for r in rows),
    ]


def _growth_rows(samples: Sequence[Sample]) -> list[Row]:
    duration_s = max((sample.at_s for sample in samples), default=0.0)
    rows = []
    for steady, found in growths(samples, duration_s * WARM_UP_PART):
        first, last = (f"{value:.{steady.digits}f}" for value in (found.first, found.last))
        rows.append(
            Row(
                steady.what,
                f"{first}, then {last}; slope {found.slope_per_hour:+.1f} an hour; "
                f"its course: {_course(samples, steady.figure)}",
                f"{steady.most_growth:g} more",
            )
        )
    if rows:
        rows.append(Row("address space, MiB", f"its course: {_course(samples, taken_mib)}"))
    return rows


def _course(samples: Sequence[Sample], figure: Callable[[Sample], float]) -> str:
    return course([figure(sample) for sample in samples])


def request_table(findings: Findings) -> list[str]:
    """Requests by their kind, as lines of Markdown."""
    counts: dict[str, collections.Counter[str]] = {}
    for (kind, became), count in findings.outcomes.items():
        name = "hung up" if became.startswith("hung up") else became
        counts.setdefault(kind, collections.Counter())[name] += count
    rows = [
        f"| {kind} | {' | '.join(str(counted[name] or '') for name in SHOWN)} |"
        for kind, counted in sorted(counts.items())
    ]
    return [f"| request | {' | '.join(SHOWN)} |", "|---|---|---|---|---|", *rows]


def written_into(page: str, report: Report) -> str:
    """The page with the run's section as the first of its figures.

    Raises ValueError for a page that has no place for them.
    """
    before, begin, after = page.partition(BEGIN)
    if not begin:
        raise ValueError(f"the page lacks the line {BEGIN.strip()}")
    return f"{before.replace(NONE_YET, '')}{begin}\n{report.as_markdown()}{after}"


def write(page: Path, report: Report) -> None:
    """Put the run's figures on the page."""
    page.write_text(written_into(page.read_text(encoding="utf-8"), report), encoding="utf-8")


def _errors(findings: Findings) -> list[str]:
    found = findings.errors.most_common(SHOWN_ERRORS)
    return ["", *(f"- {count} times: {text}" for text, count in found)] if found else []
