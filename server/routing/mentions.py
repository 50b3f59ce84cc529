"""What the lines that an outline leaves out mention: names, paths and numbers. Pure functions."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from server.routing.facts import IDENTIFIER, NUMBER, PATH

NAMES = 0
"""The worth of names and paths: they come before all numbers."""

UNIT_WORDS = 8
"""Of a line so many words stay or go together: a line may have no end."""

COMMON = 0.05
"""A number that more of the lines have tells little of any of them."""

GAP = "…"

_WORD = re.compile(r"\w+")
_LETTERS_IN_TOKEN = 4


class Mention(NamedTuple):
    """A name, a path or a number, as it stands in a line."""

    text: str
    is_number: bool


class Piece(NamedTuple):
    """Mentions that stay or go together, and their place in the order in which they are worth their room."""

    text: str
    rank: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Lines that are left out, each as the pieces of it that nothing before has said."""

    rows: tuple[tuple[Piece, ...], ...]
    by_line: bool

    def text(self, units: int) -> str:
        """With the pieces of the first so many ranks."""
        rows = (" ".join(piece.text for piece in row if piece.rank < units) for row in self.rows)
        shown = ("\n" if self.by_line else " ").join(filter(None, rows))
        return f"{GAP} {shown}" if shown else GAP


@dataclass(frozen=True, slots=True)
class Unit:
    """Mentions of one line that stay or go together. ``worth`` is :data:`NAMES`, or about how many tokens
    each number takes."""

    line: int
    text: str
    worth: int


def mentions_in(line: str) -> list[Mention]:
    """What a line mentions, in its order; what is part of a path or a name is not told again."""
    found = [
        (match.start(), -match.end(), Mention(match[0], pattern is NUMBER))
        for pattern in (PATH, IDENTIFIER, NUMBER)
        for match in pattern.finditer(line)
    ]
    mentions, end = [], 0
    for _, minus_end, mention in sorted(found):
        if -minus_end > end:
            mentions.append(mention)
            end = -minus_end
    return mentions


def said_in(lines: Iterable[str]) -> set[str]:
    """Mentions and words of lines that are shown."""
    said: set[str] = set()
    for line in lines:
        said.update(mention.text for mention in mentions_in(line))
        said.update(_WORD.findall(line))
    return said


def units_of(lines: Sequence[tuple[int, str]], said: set[str], *, whole_rows: bool) -> Iterator[Unit]:
    """What ``lines`` mention that is not ``said`` yet; it is, then.

    ``whole_rows``: a line with something new says again what numbers it has, unless many lines have them.
    """
    mentioned = [(number, mentions) for number, line in lines if (mentions := mentions_in(line))]
    often = COMMON * len(lines)
    counts = Counter(mention for _, mentions in mentioned for mention in set(mentions))
    for number, mentions in mentioned:
        shown = dict.fromkeys(mentions)
        new = {mention for mention in shown if mention.text not in said}
        said.update(mention.text for mention in new)
        names = [mention for mention in shown if mention in new and not mention.is_number]
        numbers = [mention for mention in shown if mention in new and mention.is_number]
        if numbers and whole_rows:
            again = new.union(mention for mention in shown if counts[mention] <= often)
            numbers = [mention for mention in shown if mention in again and mention.is_number]
        yield from (Unit(number, text, NAMES) for text, _ in _batched(names))
        yield from (Unit(number, text, tokens) for text, tokens in _batched(numbers))


def _batched(mentions: Sequence[Mention]) -> Iterator[tuple[str, int]]:
    """A few mentions at a time, as one text, and about how many tokens each takes."""
    for first in range(0, len(mentions), UNIT_WORDS):
        some = mentions[first : first + UNIT_WORDS]
        tokens = max(1, round(sum(map(_tokens, some)) / len(some)))
        yield " ".join(mention.text for mention in some), tokens


def ranked(units: Sequence[Unit]) -> list[Unit]:
    """Those first that are worth their room most: names, then numbers that take few tokens; of equal numbers
    the last first."""
    names = [unit for unit in units if unit.worth == NAMES]
    numbers = [unit for unit in reversed(units) if unit.worth != NAMES]
    return names + sorted(numbers, key=lambda unit: unit.worth)


def _tokens(mention: Mention) -> int:
    """About what a word and the blank before it take: many tokenizers take a number digit by digit."""
    letters = sum(map(str.isalpha, mention.text))
    return 1 + len(mention.text) - letters + math.ceil(letters / _LETTERS_IN_TOKEN)
