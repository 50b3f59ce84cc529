"""The items of a response's output, and the events with which each one grows."""

import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Event = tuple[str, dict[str, Any]]
"""The type of an event and its fields, without those that every event has."""

Logprobs = Sequence[dict[str, Any]]


class Item(Protocol):
    """An item under way. ``status`` is ``in_progress``, ``completed`` or ``incomplete``."""

    id: str

    def opening(self) -> Iterator[Event]:
        """What follows on the item itself, before its first piece."""

    def piece(self, text: str, logprobs: Logprobs = ()) -> Iterator[Event]:
        """More of it."""

    def closing(self) -> Iterator[Event]:
        """What says that nothing more comes."""

    def as_json(self, status: str) -> dict[str, Any]:
        """The item as it stands."""


class MessageItem:
    """What the model says."""

    def __init__(self) -> None:
        self.id = _new_id("msg")
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def opening(self) -> Iterator[Event]:
        """See :class:`Item`."""
        yield "response.content_part.added", {"content_index": 0, "part": _text_part("", ())}

    def piece(self, text: str, logprobs: Logprobs = ()) -> Iterator[Event]:
        """See :class:`Item`."""
        self._texts.append(text)
        self._logprobs += logprobs
        yield (
            "response.output_text.delta",
            {"content_index": 0, "delta": text, "logprobs": list(logprobs)},
        )

    def closing(self) -> Iterator[Event]:
        """See :class:`Item`."""
        part = self._part()
        told = {"content_index": 0, "text": part["text"], "logprobs": part["logprobs"]}
        yield "response.output_text.done", told
        yield "response.content_part.done", {"content_index": 0, "part": part}

    def as_json(self, status: str) -> dict[str, Any]:
        """See :class:`Item`."""
        content = [] if status == "in_progress" else [self._part()]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _part(self) -> dict[str, Any]:
        return _text_part("".join(self._texts), self._logprobs)


class ReasoningItem:
    """What the model thinks. ``secret`` also fills the field that clients send back unread."""

    def __init__(self, *, secret: bool) -> None:
        self.id = _new_id("rs")
        self._secret = secret
        self._texts: list[str] = []

    def opening(self) -> Iterator[Event]:
        """See :class:`Item`."""
        yield "response.reasoning_summary_part.added", {"summary_index": 0, "part": _summary_part("")}

    def piece(self, text: str, _logprobs: Logprobs = ()) -> Iterator[Event]:
        """See :class:`Item`."""
        self._texts.append(text)
        yield "response.reasoning_summary_text.delta", {"summary_index": 0, "delta": text}

    def closing(self) -> Iterator[Event]:
        """See :class:`Item`."""
        text = "".join(self._texts)
        yield "response.reasoning_summary_text.done", {"summary_index": 0, "text": text}
        yield "response.reasoning_summary_part.done", {"summary_index": 0, "part": _summary_part(text)}

    def as_json(self, status: str) -> dict[str, Any]:
        """See :class:`Item`."""
        text = "".join(self._texts)
        summary = [] if status == "in_progress" else [_summary_part(text)]
        secret = {"encrypted_content": text} if self._secret and summary else {}
        return {"id": self.id, "type": "reasoning", "status": status, "summary": summary, **secret}


class CallItem:
    """A call of a tool. ``namespace`` is empty for most."""

    def __init__(self, call_id: str | None, name: str, namespace: str = "") -> None:
        self.id = _new_id("fc")
        self._told = {"call_id": call_id or _new_id("call"), "name": name}
        if namespace:
            self._told["namespace"] = namespace
        self._texts: list[str] = []

    def opening(self) -> Iterator[Event]:
        """See :class:`Item`."""
        return iter(())

    def piece(self, text: str, _logprobs: Logprobs = ()) -> Iterator[Event]:
        """See :class:`Item`."""
        self._texts.append(text)
        yield "response.function_call_arguments.delta", {"delta": text}

    def closing(self) -> Iterator[Event]:
        """See :class:`Item`."""
        told = {"arguments": "".join(self._texts), "name": self._told["name"]}
        yield "response.function_call_arguments.done", told

    def as_json(self, status: str) -> dict[str, Any]:
        """See :class:`Item`."""
        arguments = "".join(self._texts)
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            **self._told,
            "arguments": arguments,
        }


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"


def _text_part(text: str, logprobs: Logprobs) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _summary_part(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}
