"""A conversation's summary in sections, so that the summaries of its parts become one. Pure functions."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

SECTIONS = {
    "Goal": "what the user wants",
    "State": "what is done and what is not",
    "Decisions": "what was settled, and why",
    "Files": "files that were read or changed",
    "Errors": "errors that are not solved yet",
}
"""What the helper is asked for, with what belongs there."""

_FACTS = ("Names", "Numbers")
"""What code adds to them."""

_HEADINGS = (*SECTIONS, *_FACTS)
_PLAIN = "State"
"""Where words without a heading go: a small model may give none."""

_HEADING = re.compile(rf"[\s*#>-]*({'|'.join(_HEADINGS)})\b[*\s]*:[*\s]*(.*)", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_LISTED = re.compile(r";\s+")
_NOTHING = re.compile(
    r"(?:none|nothing|n/a|-|\[\]|not (?:specified|mentioned|applicable))?[.\s]*", re.IGNORECASE
)

_FIRST_TO_GO = ("Numbers", "Names", "State", "Files", "Decisions", "Errors", "Goal")


def merged(summaries: Sequence[str], budget_chars: int) -> str:
    """One summary of what several say, the oldest first, each thing once.

    Where that is longer than ``budget_chars``, the oldest words of the section that is missed least go first.
    A single one stays as it is.
    """
    if len(summaries) == 1:
        return summaries[0]
    items: dict[str, list[str]] = {heading: [] for heading in _HEADINGS}
    for heading, item in (found for summary in summaries for found in _items(summary)):
        if item not in items[heading]:
            items[heading].append(item)
    for heading in _FIRST_TO_GO:
        while items[heading] and len(_written(items)) > budget_chars:
            del items[heading][0]
    return _written(items)


def _items(summary: str) -> Iterator[tuple[str, str]]:
    heading = _PLAIN
    for line in summary.splitlines():
        found = _HEADING.fullmatch(line)
        if found:
            heading = found[1].capitalize()
        for item in _listed(heading, found[2] if found else line):
            if not _NOTHING.fullmatch(item):
                yield heading, item


def _listed(heading: str, text: str) -> Iterable[str]:
    text = _BULLET.sub("", text).strip()
    # Sentences have their own semicolons; only lists of facts are taken apart.
    return _LISTED.split(text) if heading in ("Files", "Errors", *_FACTS) else [text]


def _written(items: Mapping[str, Sequence[str]]) -> str:
    lines = []
    for heading in _HEADINGS:
        if items[heading]:
            between = " " if heading == _PLAIN else "; "
            lines.append(f"{heading}: {between.join(items[heading])}")
    return "\n".join(lines)
