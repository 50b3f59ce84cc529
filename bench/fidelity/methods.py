"""The four ways to hand a session to the model, all cut to the same size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.fidelity.baselines import front_truncated, without_random_blocks
from bench.fidelity.sessions import Request
from bench.prompts import Prompter, repeatable
from server.domain.chat import Message
from server.routing.squeeze import Marks, Squeezed, message_tokens, squeeze


class Method(StrEnum):
    """Whose prompt it is."""

    UNTOUCHED = "untouched"
    OURS = "ours"
    TRUNCATED = "front-truncated"
    RANDOM = "random blocks"


BASELINES = (Method.TRUNCATED, Method.RANDOM)

Prompts = Mapping[Method, tuple[Message, ...]]


@dataclass(frozen=True)
class Scale:
    """Weighs prompts: ``count`` gives the tokens of a text, ``frame`` those of a request's tools and all else
    that stands around its messages."""

    count: Callable[[str], int]
    frame: Callable[[Request], int]

    def tokens(self, request: Request, messages: Sequence[Message] | None = None) -> int:
        """About what a request takes, with other ``messages`` if there are."""
        shown = request.messages if messages is None else messages
        return self.frame(request) + sum(message_tokens(message, self.count) for message in shown)


def scale_of(prompter: Prompter) -> Scale:
    """Weighs as the service does: by the model's own tokenizer, and its template around the first words."""
    counted: dict[str, int] = {"": 0}

    def count(text: str) -> int:
        if text not in counted:
            counted[text] = prompter.vocabulary.count(text)
        return counted[text]

    def frame(request: Request) -> int:
        users = (place for place, message in enumerate(request.messages, 1) if message.role == "user")
        opening = request.messages[: next(users, len(request.messages))]
        rendered = prompter.vocabulary.count(prompter.chat(opening, request.tools))
        return rendered - sum(message_tokens(message, count) for message in opening)

    return Scale(count, frame)


def shortened(request: Request, marks: Marks, scale: Scale) -> Squeezed:
    """Ours. The only place that calls the service's code for it."""
    return squeeze(request.messages, scale.frame(request), marks, scale.count)


def one_step(tokens: int, share: float) -> Marks:
    """Marks for a session of ``tokens`` that is shortened once, at its last request, to ``share``."""
    return Marks(start=tokens - 1, goal=int(share * tokens), limit=tokens - 1, brim=tokens)


def at_equal_size(request: Request, ours: Squeezed, scale: Scale, seed: str) -> Prompts:
    """What each method makes of a request within the tokens that ours took."""

    def fits(messages: Sequence[Message]) -> bool:
        return scale.tokens(request, messages) <= ours.tokens

    return {
        Method.UNTOUCHED: request.messages,
        Method.OURS: ours.messages,
        Method.TRUNCATED: front_truncated(request.messages, fits),
        Method.RANDOM: without_random_blocks(request.messages, fits, repeatable(seed)),
    }
