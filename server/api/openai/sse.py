"""Server-sent events: an answer event by event, or the same answer as one object."""

from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, Protocol

from starlette.responses import Response

from server.api.bodies import encoded
from server.api.figures import planned_headers, routing_headers
from server.api.http import EVENT_STREAM, LineStream, status_of
from server.api.openai.errors import error_body
from server.domain.chat import AnswerDelta
from server.domain.errors import ServiceError
from server.service.reply import Reply
from server.service.report import Outcome

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
"""A comment, which every client skips."""


class Answer(Protocol):
    """Writes one answer on its way to the client."""

    def opening(self) -> Iterable[bytes]:
        """What goes out at once, before the model has said anything."""

    def pieces(self, delta: AnswerDelta) -> Iterable[bytes]:
        """The next piece of the answer."""

    def closing(self, outcome: Outcome) -> Iterable[bytes]:
        """The end of an answer that ran to its end."""

    def last_words(self, error: ServiceError) -> bytes:
        """The end of one that did not."""

    def whole(self, everything: AnswerDelta, outcome: Outcome) -> dict[str, Any]:
        """All of that in one object."""


def event(value: dict[str, Any], name: str | None = None) -> bytes:
    """One event; ``name`` is its type, where the client goes by that."""
    data = b"data: " + encoded(value) + b"\n\n"
    return data if name is None else f"event: {name}\n".encode() + data


def error_event(error: ServiceError) -> bytes:
    """Tells that a stream broke off, in the form of any other error."""
    return event(error_body(status_of(error), str(error), error))


def streamed(reply: Reply, answer: Answer) -> Response:
    """An answer as it is made."""
    return LineStream(
        _events(reply, answer),
        heartbeat=lambda: PING,
        last_words=answer.last_words,
        close=reply.aclose,
        media_type=EVENT_STREAM,
        headers={**planned_headers(reply.opening), "Cache-Control": "no-cache"},
    )


async def _events(reply: Reply, answer: Answer) -> AsyncGenerator[bytes, None]:
    for opened in answer.opening():
        yield opened
    async for part in reply:
        for written in answer.closing(part) if isinstance(part, Outcome) else answer.pieces(part):
            yield written


async def at_once(opening: Coroutine[Any, Any, Reply], answer: Answer) -> Response:
    """An answer when it is complete."""
    everything, outcome = await (await opening).whole()
    return Response(
        encoded(answer.whole(everything, outcome)),
        media_type="application/json",
        headers=routing_headers(outcome.routing),
    )
