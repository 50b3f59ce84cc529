"""What a summary must not lose: paths, error lines, identifiers, numbers. Found by code, not by a model."""

import re
from collections import Counter
from collections.abc import Iterable

PATH = re.compile(
    r"(?<![\w/.@-])(?:[A-Za-z]:\\|~?/|\.{1,2}/)?(?:[\w.@-]+[/\\])+[\w.@-]*\w|\b[\w-]+\.[a-z]{1,4}\b:\d+"
)
ERROR_WORD = re.compile(r"error|exception|fatal|panic|failed|traceback|errno", re.IGNORECASE)
IDENTIFIER = re.compile(
    r"\b(?:[a-z]+_\w+|[a-z]+[A-Z]\w+|[A-Z][a-z]+[A-Z]\w+|[A-Z]{2,}_[A-Z_]+)\b|(?<=`)\w[\w.]*(?=`)"
)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)*(?:[a-zA-Z%]{1,4})?\b(?!\.\d)")

ERROR_LINE_CHARS = 160


def keep_facts(source: str, summary: str, budget_chars: int) -> str:
    """Lines to put under ``summary``: what ``source`` holds of facts and the summary has lost.

    The most frequent come first, and about ``budget_chars`` are spent, errors and files before
    names and numbers; empty if nothing is missing.
    """
    lines = []
    for heading, found, share in (
        ("Errors", _error_lines(source), 0.5),
        ("Files", PATH.findall(source), 0.5),
        ("Names", IDENTIFIER.findall(source), 0.7),
        ("Numbers", NUMBER.findall(source), 1.0),
    ):
        missing = _missing(found, summary)
        chosen = _within(missing, int(budget_chars * share))
        if chosen:
            lines.append(f"{heading}: {'; '.join(chosen)}")
            budget_chars -= len(lines[-1])
    return "\n".join(lines)


def _error_lines(source: str) -> list[str]:
    return [line.strip()[:ERROR_LINE_CHARS] for line in source.splitlines() if ERROR_WORD.search(line)]


def _missing(found: Iterable[str], summary: str) -> list[str]:
    return [fact for fact, _ in Counter(found).most_common() if fact not in summary]


def _within(facts: Iterable[str], budget_chars: int) -> list[str]:
    chosen = []
    for fact in facts:
        if len(fact) + 2 <= budget_chars:
            chosen.append(fact)
            budget_chars -= len(fact) + 2
    return chosen
