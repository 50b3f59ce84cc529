"""The model's text, as it streams, split into words, thinking and tool calls."""

import json
import secrets
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn

from server.domain.chat import AnswerDelta, ToolCall
from server.engine.stops import held_back

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"


class _State(Enum):
    START = auto()
    THINKING = auto()
    AFTER_TAG = auto()
    TEXT = auto()
    CALL = auto()


@dataclass(frozen=True, slots=True)
class Expected:
    """What may occur in an answer: thinking, tool calls; ``inside_thinking`` when the prompt's own
    end has opened the thinking already."""

    thinking: bool = False
    tools: bool = False
    inside_thinking: bool = False


class AnswerParser:
    """Feeds on text in pieces of any size; holds back only what may still become a tag.

    A tool call that is not JSON of the right form is handed on as the text that it is. Blanks
    around thinking and behind a tool call are dropped; those in front of one wait for more text.
    """

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._held = ""
        self._blanks = ""
        self._thought_begun = False
        self._state = _State.THINKING if expected.inside_thinking else _State.START

    def feed(self, text: str) -> tuple[AnswerDelta, ...]:
        """What is certain now."""
        self._held += text
        deltas = []
        while True:
            before = (self._state, len(self._held))
            delta = self._advance()
            if delta is not None:
                deltas.append(delta)
            if before == (self._state, len(self._held)):
                return tuple(deltas)

    def finish(self) -> tuple[AnswerDelta, ...]:
        """What was held back, now that nothing more comes."""
        rest, self._held = self._held, ""
        if self._state is _State.THINKING:
            rest = rest.rstrip()
            return (AnswerDelta(thinking=rest),) if rest else ()
        if self._state is _State.CALL:
            return (self._call_or_text(rest, closed=False),)
        if self._state is _State.AFTER_TAG:
            return ()
        rest = self._blanks + rest
        return (AnswerDelta(content=rest),) if rest else ()

    def _advance(self) -> AnswerDelta | None:
        match self._state:
            case _State.START:
                self._begin()
                return None
            case _State.THINKING:
                return self._think()
            case _State.AFTER_TAG:
                self._skip_blanks()
                return None
            case _State.TEXT:
                return self._speak()
            case _State.CALL:
                return self._call()

    def _begin(self) -> None:
        """Blanks before ``<think>`` go with it; anything else is the answer's beginning."""
        visible = self._held.lstrip()
        if not self._expected.thinking:
            self._state = _State.TEXT
        elif visible.startswith(THINK_OPEN):
            self._held = visible.removeprefix(THINK_OPEN)
            self._state = _State.THINKING
        elif visible and not THINK_OPEN.startswith(visible):
            self._state = _State.TEXT

    def _think(self) -> AnswerDelta | None:
        if not self._thought_begun:
            self._held = self._held.lstrip()
        thought, closed, rest = self._held.partition(THINK_CLOSE)
        if closed:
            self._held, self._state = rest, _State.AFTER_TAG
            thought = thought.rstrip()
        else:
            # Blanks at the end may be the ones in front of the closing tag.
            keep = held_back(thought, (THINK_CLOSE,))
            visible = thought[: len(thought) - keep].rstrip()
            thought, self._held = visible, thought[len(visible) :]
        self._thought_begun = self._thought_begun or bool(thought)
        return AnswerDelta(thinking=thought) if thought else None

    def _skip_blanks(self) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self._state = _State.TEXT

    def _speak(self) -> AnswerDelta | None:
        if not self._expected.tools:
            text, self._held = self._held, ""
            return AnswerDelta(content=text) if text else None
        text, opened, rest = self._held.partition(CALL_OPEN)
        if opened:
            self._held, self._state = rest, _State.CALL
        else:
            keep = held_back(text, (CALL_OPEN,))
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return self._without_last_blanks(text)

    def _without_last_blanks(self, text: str) -> AnswerDelta | None:
        """They belong to a tool call if one follows."""
        text = self._blanks + text
        visible = text.rstrip()
        self._blanks = text[len(visible) :]
        return AnswerDelta(content=visible) if visible else None

    def _call(self) -> AnswerDelta | None:
        body, closed, rest = self._held.partition(CALL_CLOSE)
        if not closed:
            return None
        self._held = rest
        return self._call_or_text(body, closed=True)

    def _call_or_text(self, body: str, *, closed: bool) -> AnswerDelta:
        call = _read_call(body)
        if call is not None:
            self._state = _State.AFTER_TAG
            return AnswerDelta(tool_calls=(call,))
        blanks, self._blanks, self._state = self._blanks, "", _State.TEXT
        return AnswerDelta(content=blanks + CALL_OPEN + body + (CALL_CLOSE if closed else ""))


def _read_call(body: str) -> ToolCall | None:
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, dict):
        return None
    return ToolCall(value["name"], arguments, id=f"call_{secrets.token_hex(4)}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
