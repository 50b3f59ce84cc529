"""Strategies B and C at work: a chat with summaries in the place of what may be shortened."""

import time
from dataclasses import dataclass, replace
from typing import Protocol

from server.domain.chat import Message
from server.routing.condense import PROMPT_VERSION, Form, Helper, Limits, condense
from server.routing.decide import Strategy
from server.routing.keep import Division, message_chars, with_summary
from server.routing.memory import chain_keys
from server.routing.notes import merged
from server.routing.pieces import as_text

MERGED_SUMMARIES = 12
"""However long a chat becomes, what stands for its history is no longer than so many summaries."""


class Memory(Protocol):
    """Summaries that were made before, by key."""

    def get(self, key: str) -> tuple[str, ...] | None:
        """Those of ``key``; None if there are none."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was summed up for an earlier turn: so many ``messages`` of the history. ``key`` is that of all."""

    key: str = ""
    messages: int = 0
    summaries: tuple[str, ...] = ()


NOTHING_KNOWN = Known()


@dataclass(frozen=True, slots=True)
class Shortened:
    """The chat as the generator will read it; ``reused`` of the summaries were made for an earlier turn."""

    messages: tuple[Message, ...]
    summaries: tuple[str, ...]
    helper_ns: int
    reused: int = 0

    @property
    def new_summaries(self) -> tuple[str, ...]:
        """Those that were made now."""
        return self.summaries[self.reused :]


def recall(division: Division, model: str, limits: Limits, memory: Memory) -> Known:
    """What the helper, which is called ``model`` here, summed up of this chat before; as much as possible."""
    scope = f"{PROMPT_VERSION} {model} {limits.summary_chars}"
    keys = chain_keys(scope, division.kept, division.history)
    for messages in range(len(keys) - 1, 0, -1):
        if (texts := memory.get(keys[messages])) is not None:
            return Known(keys[-1], messages, texts)
    return Known(keys[-1])


def resumed(division: Division, known: Known, limits: Limits) -> Shortened | None:
    """The chat with the summaries that there are, and what came since as it is; None: that is too much."""
    rest = division.history[known.messages :]
    if not known.messages or division.parts.material or sum(map(message_chars, rest)) > limits.rest_chars:
        return None
    later = replace(division, kept=(*division.kept, *rest), history=())
    messages = with_summary(later, _of_history(known.summaries, limits))
    return Shortened(messages, known.summaries, 0, reused=len(known.summaries))


async def shorten(
    division: Division, strategy: Strategy, helper: Helper, limits: Limits, known: Known = NOTHING_KNOWN
) -> Shortened:
    """Let the helper sum up the material of ``division``: whole (B) or piece by piece (C).

    B, too, is cut up where the material exceeds the helper's own window. What was summed up for an earlier
    turn is not read again: the new summaries are merged with those.

    Raises:
        HelperFailed: it gave nothing, or cannot read anything.
        ServiceError: its engine failed.
    """
    started = time.monotonic_ns()
    material = division.parts.material
    text = as_text(division.history[known.messages :], material)
    form = Form.PARAGRAPH if material else Form.NOTES
    new = await condense(text, form, helper, limits, in_pieces=strategy is Strategy.C)
    summaries = (*known.summaries, *new)
    joined = "\n\n".join(summaries) if material else _of_history(summaries, limits)
    messages = with_summary(division, joined)
    return Shortened(messages, summaries, time.monotonic_ns() - started, reused=len(known.summaries))


def _of_history(summaries: tuple[str, ...], limits: Limits) -> str:
    return merged(summaries, MERGED_SUMMARIES * limits.summary_chars)
