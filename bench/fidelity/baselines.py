"""How else a chat could be made to fit: what Ollama does, and blocks of lines dropped at random."""

import bisect
from collections.abc import Callable, Sequence
from random import Random

from bench.fidelity.texts import with_texts
from server.domain.chat import Message
from server.routing.results import Key, results_of

BLOCK_LINES = 10

Fits = Callable[[Sequence[Message]], bool]


def front_truncated(messages: Sequence[Message], fits: Fits) -> tuple[Message, ...]:
    """Without the oldest messages after the system prompt, as Ollama cuts: results may lose their calls.

    The last message stays, whether that fits or not.
    """

    def without(dropped: int) -> tuple[Message, ...]:
        system = (message for message in messages[:dropped] if message.role == "system")
        return (*system, *messages[dropped:])

    least = bisect.bisect_left(range(len(messages) - 1), True, key=lambda dropped: fits(without(dropped)))
    return without(least)


def without_random_blocks(messages: Sequence[Message], fits: Fits, random: Random) -> tuple[Message, ...]:
    """With blocks of lines gone from tool results, anywhere, until it fits or no result has a line left."""
    blocks = [
        (result.key, first)
        for result in results_of(messages)
        for first in range(0, len(result.text.splitlines()), BLOCK_LINES)
    ]
    random.shuffle(blocks)

    def without(dropped: int) -> tuple[Message, ...]:
        return _without_blocks(messages, blocks[:dropped])

    least = bisect.bisect_left(range(len(blocks)), True, key=lambda dropped: fits(without(dropped)))
    return without(least)


def _without_blocks(messages: Sequence[Message], dropped: Sequence[tuple[Key, int]]) -> tuple[Message, ...]:
    gone: dict[Key, set[int]] = {}
    for key, first in dropped:
        gone.setdefault(key, set()).add(first)
    texts = {
        result.key: _left(result.text, gone[result.key])
        for result in results_of(messages)
        if result.key in gone
    }
    return with_texts(messages, texts)


def _left(text: str, gone: set[int]) -> str:
    lines = text.splitlines()
    return "\n".join(line for place, line in enumerate(lines) if place - place % BLOCK_LINES not in gone)
