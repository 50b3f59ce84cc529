"""Which messages of a chat that does not fit may be left out, the oldest first. Pure functions."""

import bisect
from collections.abc import Callable, Sequence

from server.domain.chat import Message
from server.routing.keep import lasting_messages

UNITS_AT_ONCE = 8
"""So many go together, so that the next turns drop the same ones and find their prefix in the cache."""

Units = tuple[tuple[Message, ...], ...]


def without_oldest(
    messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]
) -> tuple[Message, ...] | None:
    """The chat with as few of its oldest messages left out as make it fit; None if it cannot.

    System messages, the first task and everything from the last user message on stay. A tool's result
    goes with its call, and an answer with the question behind it, so that the roles still alternate.
    """
    kept, units, rest = _units(messages)
    steps = range(UNITS_AT_ONCE, len(units) + UNITS_AT_ONCE, UNITS_AT_ONCE)

    def shortened(step: int) -> tuple[Message, ...]:
        return (*kept, *(message for unit in units[step:] for message in unit), *rest)

    place = bisect.bisect_left(steps, True, key=lambda step: fits(shortened(step)))
    return shortened(steps[place]) if place < len(steps) else None


def _units(messages: Sequence[Message]) -> tuple[tuple[Message, ...], Units, tuple[Message, ...]]:
    kept, history, rest = lasting_messages(messages)
    units: list[tuple[Message, ...]] = []
    for message in history:
        if message.role == "assistant" or not units:
            units.append((message,))
        else:
            units[-1] = (*units[-1], message)
    return kept, tuple(units), rest
