"""What the dialects of other servers have in common: what is asked for, and what comes back."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from server.domain.chat import CompletionRequest, JsonObject, Message, RunOptions
from server.domain.errors import RemoteFailed
from server.domain.generation import FinishReason, Sampling

_DEFAULTS = Sampling()


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat to be answered elsewhere."""

    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()
    think: bool | str | None = None


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a tool call. ``index`` counts the calls of an answer; ``arguments`` is JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Counted:
    """What the server says that an answer has cost; None: it does not say."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generated_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What a line of the answer's stream says. ``reason`` stands in the last one, or in the one before it."""

    content: str = ""
    thinking: str = ""
    calls: tuple[CallPiece, ...] = ()
    reason: FinishReason | None = None
    counted: Counted | None = None
    last: bool = False


class Dialect(Protocol):
    """How a server is asked. Everything is pure: bodies out, lines in."""

    models_path: str
    """What lists the models, below the URL."""

    def chat(self, model: str, chat: Chat, options: RunOptions) -> tuple[str, dict[str, Any]]:
        """Path below the URL, and body."""

    def completion(
        self, model: str, request: CompletionRequest, options: RunOptions
    ) -> tuple[str, dict[str, Any]]:
        """The same for a raw prompt, or a gap to be filled."""

    def piece(self, line: str) -> Piece | None:
        """What a line of the stream says; None: nothing.

        Raises:
            RemoteFailed: it tells of an error, or is no line of this dialect.
        """

    def names(self, listed: Mapping[str, Any]) -> list[str]:
        """The names of the models that the server lists."""


def sampling_fields(options: RunOptions) -> Iterator[tuple[str, Any]]:
    """What the request or its model asks for; what they leave open is the other server's to decide."""
    for part in fields(Sampling):
        value = getattr(options.sampling, part.name)
        asked = part.name in options.named or value != getattr(_DEFAULTS, part.name)
        if asked and value is not None and part.name != "logit_bias":
            yield part.name, value


def with_call_ids(messages: Sequence[Message]) -> Iterator[tuple[Message, tuple[str, ...]]]:
    """Messages with the ids of the calls that they make or answer: their own, and where they have none
    those that their order gives."""
    open_calls: list[tuple[str, str]] = []
    number = 0
    for message in messages:
        made = []
        for call in message.tool_calls:
            number += 1
            made.append((call.name, call.id or f"call_{number}"))
        open_calls += made
        if message.role == "tool":
            yield message, (message.tool_call_id or _answered(open_calls, message.tool_name),)
        else:
            yield message, tuple(call_id for _, call_id in made)


def _answered(open_calls: list[tuple[str, str]], name: str | None) -> str:
    """The first call of that name, or of any, that no result has answered; it is none any more."""
    place = next((place for place, (called, _) in enumerate(open_calls) if called == name), 0)
    return open_calls.pop(place)[1] if open_calls else "call_0"


def parsed(text: str) -> dict[str, Any]:
    """A line's JSON object.

    Raises:
        RemoteFailed: it is none.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RemoteFailed(f"the answer holds what is no JSON object: {text[:200]}")
    return found


def error_text(told: Any) -> str:
    """The words of an error, in whichever of the usual shapes."""
    if isinstance(told, Mapping):
        inner = told.get("error", told.get("message", told.get("detail", told)))
        return error_text(inner) if inner is not told else json.dumps(told, ensure_ascii=False)
    return str(told)
