"""A prompt as words to search in: JSON undone, and without the numbers that clients put before lines."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from server.domain.chat import Message
from server.routing.results import Key, Result, results_of, rewritten

_LINE_NUMBER = re.compile(r"^ *\d+ ?\| ?", re.MULTILINE)


def spoken(messages: Sequence[Message]) -> str:
    """All that a model would read of ``messages``."""
    by_message: dict[int, list[Result]] = {}
    for result in results_of(messages):
        by_message.setdefault(result.key.message, []).append(result)
    parts: list[str] = []
    for place, message in enumerate(messages):
        results = by_message.get(place, []) if message.role == "tool" else []
        parts += [f"{result.subject}\n{result.text}" for result in results] or [message.content]
        parts += [text for call in message.tool_calls for text in _strings(call.arguments)]
    return without_line_numbers("\n".join(parts))


def with_texts(messages: Sequence[Message], texts: Mapping[Key, str]) -> tuple[Message, ...]:
    """``messages`` in which some results have other texts."""
    by_message: dict[int, dict[int, str]] = {}
    for key, text in texts.items():
        by_message.setdefault(key.message, {})[key.part] = text
    return tuple(rewritten(message, by_message.get(place, {})) for place, message in enumerate(messages))


def without_line_numbers(text: str) -> str:
    """``12 | code`` is ``code``: the number is the client's, no fact of the file."""
    return _LINE_NUMBER.sub("", text)


def stands_in(fact: str, text: str) -> bool:
    """Whether ``fact`` occurs as whole words: ``12`` is not in ``3412``."""
    place = text.find(fact)
    while place >= 0:
        end = place + len(fact)
        if not (_joins(text[place - 1 : place], fact[:1]) or _joins(fact[-1:], text[end : end + 1])):
            return True
        place = text.find(fact, place + 1)
    return False


def _joins(left: str, right: str) -> bool:
    return bool(re.match(r"\w", left) and re.match(r"\w", right))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
