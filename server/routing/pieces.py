"""Cutting long text into pieces that a model can read, at the most natural borders. Pure functions."""

import re
from collections.abc import Callable, Sequence

from server.domain.chat import Message

HEADING = "=== {role} ===\n"
BORDERS = tuple(
    re.compile(pattern) for pattern in (r"\n\n(?==== \w+ ===\n)", r"\n[ \t]*\n", r"\n", r"[.!?;]\s", r"\s")
)
"""Where to cut, best first: between messages, paragraphs, lines, sentences, words."""


def as_text(history: Sequence[Message], material: str) -> str:
    """What is to be shortened as one text, with a heading for every message."""
    parts = [_message_text(message) for message in history]
    if material:
        parts.append(HEADING.format(role="user") + material if history else material)
    return "\n\n".join(parts)


def split(text: str, fits: Callable[[str], bool]) -> tuple[str, ...]:
    """Halve ``text`` at natural borders until every piece ``fits``; the pieces joined are the text."""
    if len(text) <= 1 or fits(text):
        return (text,)
    cut = _best_cut(text)
    return split(text[:cut], fits) + split(text[cut:], fits)


def _best_cut(text: str) -> int:
    """The best border in the middle half of ``text``, nearest to its middle."""
    middle = len(text) // 2
    low, high = len(text) // 4, len(text) - len(text) // 4
    for border in BORDERS:
        places = [match.end() for match in border.finditer(text, low, high) if match.end() < len(text)]
        if places:
            return min(places, key=lambda place: abs(place - middle))
    return middle


def _message_text(message: Message) -> str:
    calls = "".join(f"\n[called {call.name} with {dict(call.arguments)}]" for call in message.tool_calls)
    return HEADING.format(role=message.role) + message.content + calls
