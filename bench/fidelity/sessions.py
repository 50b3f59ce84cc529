"""Sessions of agents as rows of requests: recorded ones, and a conversation cut into its requests."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from server.api.ollama.wire import ChatBody
from server.domain.chat import JsonObject, Message


@dataclass(frozen=True)
class Request:
    """One chat as a client sent it."""

    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()


@dataclass(frozen=True)
class Session:
    """The requests of one session, in their order. Sub-agents are conversations of their own among them."""

    name: str
    requests: tuple[Request, ...]
    recorded: bool = True

    @property
    def longest(self) -> Request:
        """The request with the most messages."""
        return max(self.requests, key=lambda request: len(request.messages))


def recorded_sessions(folder: Path) -> list[Session]:
    """Every folder of NNN.json in ``folder``, by name."""
    found = []
    for place in sorted(path for path in folder.glob("*") if path.is_dir()):
        files = sorted(place.glob("[0-9][0-9][0-9].json"))
        if files:
            found.append(Session(place.name, tuple(map(_request, files))))
    return found


def session_of(name: str, conversation: Request) -> Session:
    """A whole conversation as the requests that it was made of: one before each answer, and the last one."""
    messages = conversation.messages
    ends = [place for place, message in enumerate(messages) if place and message.role == "assistant"]
    requests = (Request(messages[:end], conversation.tools) for end in (*ends, len(messages)))
    return Session(name, tuple(requests), recorded=False)


def with_answers(session: Session) -> Iterator[tuple[Request, Message]]:
    """Requests with the model's next message, as far as the request after them tells it."""
    for request, later in pairwise(session.requests):
        size = len(request.messages)
        if begins_with(later.messages, request.messages) and later.messages[size].role == "assistant":
            yield request, later.messages[size]


def begins_with(messages: Sequence[Message], start: Sequence[Message]) -> bool:
    """Whether ``messages`` are ``start`` and more."""
    return len(messages) > len(start) and tuple(messages[: len(start)]) == tuple(start)


def _request(file: Path) -> Request:
    request = ChatBody.model_validate(json.loads(file.read_text(encoding="utf-8"))).to_domain()
    return Request(request.messages, request.tools)
