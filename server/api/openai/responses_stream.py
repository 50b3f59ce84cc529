"""The answer of ``/v1/responses``: events that build up one object, and that object."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from server.api.figures import what_was_done
from server.api.http import status_of
from server.api.openai.errors import error_body
from server.api.openai.figures import response_usage, token_logprobs
from server.api.openai.responses_output import (
    CallItem,
    Event,
    Item,
    Logprobs,
    MessageItem,
    ReasoningItem,
)
from server.api.openai.responses_wire import ToolName
from server.api.openai.sse import event
from server.api.openai.tools import arguments_text
from server.domain.chat import AnswerDelta
from server.domain.errors import ServiceError
from server.domain.generation import FinishReason
from server.service.report import Outcome

COMPLETED, INCOMPLETE = "completed", "incomplete"


class ResponseAnswer:
    """Writes one response.

    ``response`` is the object before the answer has begun, ``names`` the client's names of the tools, and
    ``secret_thoughts`` asks for the field with which clients send thoughts back.
    """

    def __init__(
        self, response: dict[str, Any], names: Mapping[str, ToolName], *, secret_thoughts: bool
    ) -> None:
        self._response = response
        self._names = names
        self._secret_thoughts = secret_thoughts
        self._items: list[dict[str, Any]] = []
        self._item: Item | None = None
        self._sequence = 0
        self._calls_begun = self._calls_whole = 0

    def opening(self) -> Iterator[bytes]:
        """Shows the response, empty as it is."""
        yield from self._written(
            (kind, {"response": self._response}) for kind in ("response.created", "response.in_progress")
        )

    def pieces(self, delta: AnswerDelta) -> Iterator[bytes]:
        """More of the item under way, or the next one."""
        return self._written(self._grow(delta))

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """The end of the last item, and of the response."""
        return self._written(self._end(outcome))

    def last_words(self, error: ServiceError) -> bytes:
        """The end of a response that broke off; what it has said up to now stays."""
        told = error_body(status_of(error), str(error), error)["error"]
        failure = {"code": told["code"] or "server_error", "message": told["message"]}
        response = {**self._response, "status": "failed", "error": failure, "output": self._items}
        return b"".join(self._written([("response.failed", {"response": response})]))

    def whole(self, everything: AnswerDelta, outcome: Outcome) -> dict[str, Any]:
        """The object that the last event holds."""
        *_, (_, last) = (*self._grow(everything), *self._end(outcome))
        response: dict[str, Any] = last["response"]
        return response

    def _written(self, events: Iterable[Event]) -> Iterator[bytes]:
        for kind, fields in events:
            number, self._sequence = self._sequence, self._sequence + 1
            yield event({"type": kind, "sequence_number": number, **fields}, kind)

    def _grow(self, delta: AnswerDelta) -> Iterator[Event]:
        if delta.thinking:
            if not isinstance(self._item, ReasoningItem):
                yield from self._begin(ReasoningItem(secret=self._secret_thoughts))
            yield from self._more(delta.thinking)
        if delta.content:
            if not isinstance(self._item, MessageItem):
                yield from self._begin(MessageItem())
            # Tokens of thoughts and calls have no place of their own here.
            yield from self._more(delta.content, token_logprobs(delta.scores))
        yield from self._call(delta)

    def _call(self, delta: AnswerDelta) -> Iterator[Event]:
        """A call that came in parts does not come again when it is whole."""
        for part in delta.call_parts:
            if part.name is not None:
                yield from self._begin_call(part.id, part.name)
            if part.arguments:
                yield from self._more(part.arguments)
        for call in delta.tool_calls:
            if self._calls_whole == self._calls_begun:
                yield from self._begin_call(call.id, call.name)
                yield from self._more(arguments_text(call.arguments))
            self._calls_whole += 1
            if self._calls_whole == self._calls_begun:
                yield from self._finish(COMPLETED)

    def _begin_call(self, call_id: str | None, name: str) -> Iterator[Event]:
        self._calls_begun += 1
        known = self._names.get(name, ToolName(name))
        return self._begin(CallItem(call_id, known.name, known.namespace))

    def _begin(self, item: Item) -> Iterator[Event]:
        yield from self._finish(COMPLETED)
        self._item = item
        yield (
            "response.output_item.added",
            {"output_index": len(self._items), "item": item.as_json("in_progress")},
        )
        yield from self._about(item, item.opening())

    def _more(self, text: str, logprobs: Logprobs = ()) -> Iterator[Event]:
        if self._item is not None:
            yield from self._about(self._item, self._item.piece(text, logprobs))

    def _finish(self, status: str) -> Iterator[Event]:
        item, self._item = self._item, None
        if item is not None:
            yield from self._about(item, item.closing())
            done = item.as_json(status)
            yield "response.output_item.done", {"output_index": len(self._items), "item": done}
            self._items.append(done)

    def _about(self, item: Item, events: Iterable[Event]) -> Iterator[Event]:
        for kind, fields in events:
            yield kind, {"item_id": item.id, "output_index": len(self._items), **fields}

    def _end(self, outcome: Outcome) -> Iterator[Event]:
        if self._item is None and not self._items:
            # Nothing was said, and clients look for a message.
            yield from self._begin(MessageItem())
        status = INCOMPLETE if outcome.reason is FinishReason.LENGTH else COMPLETED
        yield from self._finish(status)
        yield f"response.{status}", {"response": self._finished(status, outcome)}

    def _finished(self, status: str, outcome: Outcome) -> dict[str, Any]:
        return {
            **self._response,
            "completed_at": int(time.time()) if status == COMPLETED else None,
            "status": status,
            "incomplete_details": None if status == COMPLETED else {"reason": "max_output_tokens"},
            "output": self._items,
            "usage": response_usage(outcome),
            "llm_optimizer": what_was_done(outcome),
        }
