"""The words that later edits had to find in a file: could the model still read them when it wrote those?"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.fidelity.methods import Scale, shortened
from bench.fidelity.protection import protected
from bench.fidelity.recall import Tally
from bench.fidelity.sessions import Request
from bench.fidelity.texts import spoken, without_line_numbers
from server.domain.chat import Message
from server.routing.results import Key, results_of
from server.routing.squeeze import Marks

_OLD_TEXTS = ("old_text", "old_string", "old_str", "oldText", "search")
_SEARCH = re.compile(r"^(?:-{3,}|<{3,}) SEARCH>?\n(.*?)\n={3,}$", re.MULTILINE | re.DOTALL)


class Group(StrEnum):
    """How well the result that an anchor stands in was protected, from its reading to the edit."""

    THROUGHOUT = "protected throughout"
    CROWDED = "until the window was 90% full"
    LATELY = "not in between"
    NOT = "not protected"


@dataclass(frozen=True)
class Anchor:
    """The text that an edit in ``message`` replaces."""

    message: int
    text: str


def anchors_of(messages: Sequence[Message]) -> Iterator[Anchor]:
    """Of edits by tool calls and of SEARCH blocks."""
    for place, message in enumerate(messages):
        if message.role != "assistant":
            continue
        for call in message.tool_calls:
            old = (call.arguments.get(name) for name in _OLD_TEXTS)
            yield from (Anchor(place, text) for text in old if isinstance(text, str) and text.strip())
        yield from (Anchor(place, found) for found in _SEARCH.findall(message.content))


def anchors_held(conversation: Request, marks: Marks, scale: Scale) -> dict[Group, Tally]:
    """Of each group, how many anchors stood in the prompt that the edit was written after.

    Anchors that did not stand in the untouched prompt either were the model's guess, and do not count.
    """
    tallies = dict.fromkeys(Group, Tally())
    history = _history(conversation, marks, scale)
    for anchor in anchors_of(conversation.messages):
        messages = conversation.messages[: anchor.message]
        if anchor.text not in spoken(messages):
            continue
        squeezed = shortened(Request(messages, conversation.tools), marks, scale)
        held = anchor.text in spoken(squeezed.messages)
        tallies[_group(anchor, messages, history)] += Tally(int(held), 1)
    return tallies


@dataclass(frozen=True)
class _Moment:
    """A request of ``end`` messages: what it protects, and what of that even above the limit."""

    end: int
    protected: frozenset[Key]
    spared: frozenset[Key]


def _history(conversation: Request, marks: Marks, scale: Scale) -> list[_Moment]:
    moments = []
    end_before, size_before = 0, 0
    for end in (
        place for place, one in enumerate(conversation.messages) if place and one.role == "assistant"
    ):
        messages = conversation.messages[:end]
        new = scale.tokens(conversation, messages[end_before:]) - (
            scale.frame(conversation) if end_before else 0
        )
        crowded = size_before + new > marks.limit
        safe = protected(messages)
        spared = protected(messages, turns=1, spare_files=False) if crowded else safe
        moments.append(_Moment(end, safe, spared))
        end_before = end
        size_before = shortened(Request(messages, conversation.tools), marks, scale).tokens
    return moments


def _group(anchor: Anchor, messages: Sequence[Message], history: Sequence[_Moment]) -> Group:
    holders = {
        result.key for result in results_of(messages) if anchor.text in without_line_numbers(result.text)
    }
    past = [moment for moment in history if moment.end <= anchor.message]
    seen = [(key, [moment for moment in past if moment.end > key.message]) for key in holders]
    if not holders or any(all(key in moment.spared for moment in moments) for key, moments in seen):
        return Group.THROUGHOUT
    if any(all(key in moment.protected for moment in moments) for key, moments in seen):
        return Group.CROWDED
    return Group.LATELY if any(key in past[-1].protected for key in holders) else Group.NOT
