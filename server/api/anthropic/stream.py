"""An answer as events: blocks that open, grow and close one after another."""

import json
from collections.abc import Iterator
from typing import Any

from server.api.anthropic.answer import (
    empty_block,
    empty_call,
    ending,
    first_usage,
    last_usage,
    new_message,
)
from server.api.bodies import encoded
from server.api.figures import what_was_done
from server.domain.chat import AnswerDelta, CallPart, ChatRequest, ToolCall
from server.service.report import Outcome

Event = dict[str, Any]

PING: Event = {"type": "ping"}


def event_bytes(event: Event) -> bytes:
    """The event as it goes over the wire."""
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), encoded(event))


class EventMaker:
    """Makes the events of one answer."""

    def __init__(self, wanted: ChatRequest) -> None:
        self._wanted = wanted
        self._blocks = 0
        self._open: str | None = None
        self._called = False
        self._came_in_parts: set[str] = set()

    def begin(self, prompt_tokens: int) -> Iterator[Event]:
        """What comes before the model has said anything."""
        message = new_message(self._wanted.model, first_usage(prompt_tokens))
        yield {"type": "message_start", "message": message}
        yield PING

    def events(self, delta: AnswerDelta) -> Iterator[Event]:
        """What a piece of the answer adds."""
        yield from self._say("thinking", delta.thinking)
        yield from self._say("text", delta.content)
        for part in delta.call_parts:
            yield from self._call_part(part)
        for call in delta.tool_calls:
            yield from self._whole_call(call)

    def end(self, outcome: Outcome) -> Iterator[Event]:
        """What comes when the model has finished."""
        if not self._blocks:
            # Clients reach for the first block of an answer, even of one without a word.
            yield self._start(empty_block("text"))
        yield from self._stop()
        delta = ending(outcome, self._wanted.options, called=self._called)
        yield {
            "type": "message_delta",
            "delta": delta,
            "usage": last_usage(outcome),
            "llm_optimizer": what_was_done(outcome),
        }
        yield {"type": "message_stop"}

    def _say(self, kind: str, words: str) -> Iterator[Event]:
        if not words:
            return
        if self._open != kind:
            yield from self._stop()
            yield self._start(empty_block(kind))
        yield self._grow({"type": f"{kind}_delta", kind: words})

    def _call_part(self, part: CallPart) -> Iterator[Event]:
        if part.name is not None:
            yield from self._start_call(part.id, part.name)
        if part.id is not None:
            self._came_in_parts.add(part.id)
        if part.arguments:
            yield self._grow({"type": "input_json_delta", "partial_json": part.arguments})

    def _whole_call(self, call: ToolCall) -> Iterator[Event]:
        if call.id in self._came_in_parts:
            if self._open == "tool_use":
                yield from self._stop()
            return
        arguments = json.dumps(dict(call.arguments), ensure_ascii=False, separators=(",", ":"))
        yield from self._start_call(call.id, call.name)
        yield self._grow({"type": "input_json_delta", "partial_json": arguments})

    def _start_call(self, identity: str | None, name: str) -> Iterator[Event]:
        self._called = True
        yield from self._stop()
        yield self._start(empty_call(identity, name))

    def _start(self, block: dict[str, Any]) -> Event:
        self._open = block["type"]
        self._blocks += 1
        return {"type": "content_block_start", "index": self._blocks - 1, "content_block": block}

    def _grow(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self._blocks - 1, "delta": delta}

    def _stop(self) -> Iterator[Event]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._blocks - 1}
