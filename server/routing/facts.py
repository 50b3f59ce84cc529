"""What a summary must not lose: paths, error lines, identifiers, numbers. Found by code, not by a model."""

import re
from collections import Counter
from collections.abc import Iterable

# Text may be hostile: no pattern may begin in the middle of what it could have begun before,
# or a megabyte of dashes takes hours.
PATH = re.compile(
    r"""\bhttps?://[^\s"'<>()\[\]]*\w"""
    r"|(?<![\w/\\.@~-])(?:(?:[A-Za-z]:[/\\]|~/)(?:[\w.@-]+[/\\])*|/?(?:[\w.@-]+[/\\])+)[\w.@-]*\w(?::\d+)*"
    r"|(?<![\w/\\.@~-])[\w-]+(?:\.[\w-]+)*\.(?:[a-z]{1,4}:\d+(?::\d+)?"
    r"|(?:py|[jt]sx?|go|rs|java|c|h|cpp|cs|rb|php|sh|sql|md|txt|json|ya?ml|toml|ini|log|html|css|xml|csv)\b)"
)
ERROR_WORD = re.compile(r"error|exception|fatal|panic|failed|traceback|errno", re.IGNORECASE)
IDENTIFIER = re.compile(
    r"(?<=`)\w[\w.]*(?=`)"
    r"|(?<!\w)(?:_*[a-z][a-z0-9]*_\w+|_*[a-z][a-z0-9]*[A-Z]\w*|[A-Z][a-z0-9]+[A-Z]\w*"
    r"|[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]|[A-Za-z_]\w+(?=\((?!s\))))(?!\w)"
)
NUMBER = re.compile(
    r"(?<![\w.])[v-]?(?:0x[0-9a-fA-F]+|\d+(?:[.,:/T-]\d+)*(?:[eE][-+]?\d+)?(?:%|[a-zA-Z]{1,4}\b)?)(?!\w)"
)
_WORD = re.compile(r"\w+")

ERROR_LINE_CHARS = 160
_BEFORE_ERROR_CHARS = 60


def keep_facts(source: str, summary: str, budget_chars: int) -> str:
    """Lines to put under ``summary``: what ``source`` holds of facts and the summary has lost.

    The most frequent come first, and at most ``budget_chars`` are spent, errors and files before
    names and numbers; empty if nothing is missing.
    """
    lines: list[str] = []
    for heading, found, share in (
        ("Errors", _error_lines(source), 0.5),
        ("Files", PATH.findall(source), 0.5),
        ("Names", IDENTIFIER.findall(source), 0.7),
        ("Numbers", NUMBER.findall(source), 1.0),
    ):
        missing = _missing(found, "\n".join((summary, *lines)))
        chosen = _within(missing, int(budget_chars * share) - len(f"\n{heading}: "))
        if chosen:
            lines.append(f"{heading}: {'; '.join(chosen)}")
            budget_chars -= len(lines[-1]) + 1
    return "\n".join(lines)


def _error_lines(source: str) -> list[str]:
    return [
        _around(line, match.start()) for line in source.splitlines() if (match := ERROR_WORD.search(line))
    ]


def _around(line: str, place: int) -> str:
    """The line, or of a long one the part about ``place``."""
    if len(line.strip()) <= ERROR_LINE_CHARS:
        return line.strip()
    start = max(place - _BEFORE_ERROR_CHARS, 0)
    return line[start : start + ERROR_LINE_CHARS].strip()


def _missing(found: Iterable[str], said: str) -> list[str]:
    """Facts that are not in ``said``, where ``12`` is not said by ``3412``."""
    whole = {*_WORD.findall(said), *IDENTIFIER.findall(said), *NUMBER.findall(said)}
    frequent = [fact for fact, _ in Counter(found).most_common()]
    return [fact for fact in frequent if fact not in said or (_is_short(fact) and fact not in whole)]


def _is_short(fact: str) -> bool:
    return bool(NUMBER.fullmatch(fact) or IDENTIFIER.fullmatch(fact) or _WORD.fullmatch(fact))


def _within(facts: Iterable[str], budget_chars: int) -> list[str]:
    chosen = []
    for fact in facts:
        if len(fact) + 2 <= budget_chars:
            chosen.append(fact)
            budget_chars -= len(fact) + 2
    return chosen
