"""The model's text, as it streams, split into words, thinking and tool calls."""

from dataclasses import dataclass, field
from enum import Enum, auto

from server.chat.calls import CallScanner, Tools, Verdict, find_opening
from server.domain.chat import AnswerDelta
from server.engine.stops import held_back

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


class _State(Enum):
    START = auto()
    THINKING = auto()
    AFTER_TAG = auto()
    TEXT = auto()
    CALL = auto()
    AFTER_CALL = auto()


@dataclass(frozen=True, slots=True)
class Expected:
    """What may occur in an answer: thinking, calls of ``tools``; ``inside_thinking`` when the prompt's
    own end has opened the thinking already."""

    thinking: bool = False
    tools: Tools = field(default_factory=dict)
    inside_thinking: bool = False


class AnswerParser:
    """Feeds on text in pieces of any size; holds back only what may still become a tag.

    What looks like a tool call and is none of the tools' is handed on as the text that it is, even where
    pieces of it went out as a call already. Only a call that the length limit has cut off is dropped: half
    a call is neither a call nor anything to read. Blanks around thinking and behind a tool call are dropped;
    those in front of one wait for more text.
    """

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._held = ""
        self._blanks = ""
        self._thought_begun = False
        self._at_line_start = True
        self._scanner = CallScanner(expected.tools)
        self._opened = ""
        self._closings: tuple[str, ...] = ()
        self._calls = 0
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

    def finish(self, *, cut: bool = False) -> tuple[AnswerDelta, ...]:
        """What was held back, now that nothing more comes; ``cut`` says that more was to come."""
        rest, self._held = self._held, ""
        if self._state is _State.THINKING:
            rest = rest.rstrip()
            return (AnswerDelta(thinking=rest),) if rest else ()
        if self._state is _State.CALL:
            return self._last_call(cut=cut)
        if self._state is _State.AFTER_TAG or (self._state is _State.AFTER_CALL and self._may_close(rest)):
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
            case _State.AFTER_CALL:
                self._skip_closings()
                return None

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
        opening = find_opening(self._held, at_line_start=self._at_line_start)
        text, self._held = self._held[: opening.start], self._held[opening.start :]
        if text:
            self._at_line_start = text.endswith("\n")
        if opening.end is not None:
            self._opened = self._held[: opening.end - opening.start]
            self._scanner = CallScanner(self._expected.tools, self._calls)
            self._state = _State.CALL
        return self._without_last_blanks(text)

    def _without_last_blanks(self, text: str) -> AnswerDelta | None:
        """They belong to a tool call if one follows."""
        text = self._blanks + text
        visible = text.rstrip()
        self._blanks = text[len(visible) :]
        return AnswerDelta(content=visible) if visible else None

    def _call(self) -> AnswerDelta | None:
        fresh, self._held = self._held, ""
        return self._judged(self._scanner.feed(fresh))

    def _judged(self, verdict: Verdict) -> AnswerDelta | None:
        scanner = self._scanner
        if verdict is Verdict.CALL:
            self._held, self._state = scanner.raw[scanner.end :], _State.AFTER_CALL
            self._closings = scanner.closings
            self._calls += len(scanner.calls)
            return AnswerDelta(tool_calls=scanner.calls, call_parts=scanner.take_parts())
        if verdict is Verdict.TEXT:
            # What opened it is text; behind that, another one may begin.
            self._calls += scanner.went_live
            end = max(len(self._opened), scanner.head_end)
            text, self._held = scanner.raw[:end], scanner.raw[end:]
            self._at_line_start, self._state = False, _State.TEXT
            return self._without_last_blanks(text)
        parts = scanner.take_parts()
        return AnswerDelta(call_parts=parts) if parts else None

    def _last_call(self, *, cut: bool) -> tuple[AnswerDelta, ...]:
        """The text has ended inside of what may be a call."""
        verdict = self._scanner.finish()
        if cut and verdict is Verdict.TEXT and self._scanner.is_unmistakable:
            return ()
        delta = self._judged(verdict)
        rest = (*self.feed(""), *self.finish(cut=cut))
        return (delta, *rest) if delta else rest

    def _skip_closings(self) -> None:
        """Drop blanks and what closes a call; another call may follow at once."""
        self._held = self._held.lstrip()
        closing = next((closing for closing in self._closings if self._held.startswith(closing)), None)
        if closing:
            self._held = self._held.removeprefix(closing)
        elif self._held and not self._may_close(self._held):
            self._at_line_start, self._state = True, _State.TEXT

    def _may_close(self, text: str) -> bool:
        return any(closing.startswith(text.strip()) for closing in self._closings)
