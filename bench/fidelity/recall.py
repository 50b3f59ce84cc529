"""Which facts of a session's tool results are still in a shortened prompt, by class and by age."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from bench.fidelity.texts import stands_in, without_line_numbers
from server.domain.chat import Message
from server.routing.facts import ERROR_WORD, IDENTIFIER, NUMBER, PATH
from server.routing.results import Kind, Result, results_of


class FactClass(StrEnum):
    """What kind of fact it is."""

    IDENTIFIER = "identifiers"
    PATH = "paths"
    NUMBER = "numbers"
    ERROR = "error lines"


AGES: tuple[tuple[str, float], ...] = (
    ("0-2", 2),
    ("3-5", 5),
    ("6-10", 10),
    ("older", float("inf")),
)
"""Turns from the end back to where a fact was last seen."""


@dataclass(frozen=True)
class Fact:
    """Something that the agent may need again, word for word."""

    kind: FactClass
    text: str


@dataclass(frozen=True)
class Seen:
    """Where a fact was seen last: so many turns ago, in what."""

    turns_ago: int
    source: str

    @property
    def age(self) -> str:
        """The name of its row in :data:`AGES`."""
        return next(name for name, most in AGES if self.turns_ago <= most)


@dataclass(frozen=True)
class Tally:
    """How many of the facts are still there."""

    kept: int = 0
    all: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.kept + other.kept, self.all + other.all)

    @property
    def share(self) -> float:
        """From 0 to 1; nothing lost of nothing is 1."""
        return self.kept / self.all if self.all else 1.0


Tallies = Mapping[tuple[FactClass, str, str], Tally]
"""By class, age and source."""


def facts_of(messages: Sequence[Message]) -> dict[Fact, Seen]:
    """Distinct facts of all tool results; one that was seen again is as young as its last sight."""
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    found: dict[Fact, Seen] = {}
    for result in results_of(messages):
        later = sum(place > result.key.message for place in answers)
        for fact in _facts_in(result):
            found[fact] = Seen(later, _source(result))
    return found


def tallied(facts: Mapping[Fact, Seen], text: str) -> dict[tuple[FactClass, str, str], Tally]:
    """How many of ``facts`` stand in ``text``."""
    tallies: dict[tuple[FactClass, str, str], Tally] = {}
    for fact, seen in facts.items():
        key = (fact.kind, seen.age, seen.source)
        tallies[key] = tallies.get(key, Tally()) + Tally(int(stands_in(fact.text, text)), 1)
    return tallies


def summed(tallies: Iterable[Tallies]) -> dict[tuple[FactClass, str, str], Tally]:
    """Several prompts' tallies as one."""
    total: dict[tuple[FactClass, str, str], Tally] = {}
    for single in tallies:
        for key, tally in single.items():
            total[key] = total.get(key, Tally()) + tally
    return total


def by_class(tallies: Tallies, age: str = "") -> dict[FactClass, Tally]:
    """One tally for each class, of facts of ``age`` only if that is given."""
    return {
        kind: sum((t for key, t in tallies.items() if key[0] is kind and age in ("", key[1])), Tally())
        for kind in FactClass
    }


def mean(tallies: Tallies) -> float:
    """Mean recall over the four classes: numbers, the most of all facts, weigh no more than paths."""
    return sum(tally.share for tally in by_class(tallies).values()) / len(FactClass)


def losses(tallies: Tallies) -> list[tuple[FactClass, str, int, float]]:
    """Class, source, how many were lost of it, and which share of the class that is; the most first."""
    lost: dict[tuple[FactClass, str], int] = {}
    for (kind, _, source), tally in tallies.items():
        lost[kind, source] = lost.get((kind, source), 0) + tally.all - tally.kept
    totals = by_class(tallies)
    rows = [
        (kind, source, count, count / totals[kind].all) for (kind, source), count in lost.items() if count
    ]
    return sorted(rows, key=lambda row: -row[3])


def _facts_in(result: Result) -> Iterator[Fact]:
    shown = without_line_numbers(result.text)
    for kind, pattern in (
        (FactClass.IDENTIFIER, IDENTIFIER),
        (FactClass.PATH, PATH),
        (FactClass.NUMBER, NUMBER),
    ):
        yield from (Fact(kind, found) for found in pattern.findall(shown))
    # A line of source that speaks of errors reports none.
    if result.kind is not Kind.FILE:
        lines = (line.strip() for line in shown.splitlines() if ERROR_WORD.search(line))
        yield from (Fact(FactClass.ERROR, line) for line in lines)


def _source(result: Result) -> str:
    suffix = PurePosixPath(result.subject).suffix
    return f"files {suffix}" if result.kind is Kind.FILE and suffix else f"{result.kind}s"
