"""The answer to a chat: its pieces as they come, and its figures in words."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NS = 1e9


@dataclass(frozen=True, slots=True)
class Piece:
    """Some words of an answer, or of the thinking before it."""

    words: str = ""
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``last`` is the stream's last object; None: it was stopped before its end.

    ``first_token_s`` runs from asking to the first word or thought; None: there was none.
    """

    words: str
    thinking: str
    last: Mapping[str, Any] | None
    first_token_s: float | None

    @property
    def as_one_object(self) -> dict[str, Any]:
        """As the service answers where it does not stream."""
        message = {"role": "assistant", "content": self.words}
        if self.thinking:
            message["thinking"] = self.thinking
        return {**(self.last or {}), "message": message}

    @property
    def message(self) -> dict[str, Any]:
        """For the next request; what was only thought is not sent back."""
        return {"role": "assistant", "content": self.words}


class Listening:
    """Collects an answer while its pieces are handed on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_s = clock()
        self._first_s: float | None = None
        self._words: list[str] = []
        self._thinking: list[str] = []
        self._last: Mapping[str, Any] | None = None

    def pieces(self, objects: Iterable[Mapping[str, Any]]) -> Iterator[Piece]:
        """Those of ``objects`` that have something to read."""
        for told in objects:
            message = told.get("message") or {}
            piece = Piece(message.get("content") or "", message.get("thinking") or "")
            if piece.words or piece.thinking:
                self._note(piece)
                yield piece
            if told.get("done"):
                self._last = told

    @property
    def answer(self) -> Answer:
        """What has come so far."""
        first_s = None if self._first_s is None else self._first_s - self._started_s
        return Answer("".join(self._words), "".join(self._thinking), self._last, first_s)

    def _note(self, piece: Piece) -> None:
        if self._first_s is None:
            self._first_s = self._clock()
        self._words.append(piece.words)
        self._thinking.append(piece.thinking)


def in_one_line(answer: Answer) -> str:
    """Strategy, tokens, time to the first one, speed: what is worth a look after each answer."""
    last = answer.last or {}
    parts = [_routed(_ours(last)), _awaited(answer), _spoken(last), _seconds_in_all(last)]
    return " · ".join(filter(None, parts))


def in_full(answer: Answer) -> list[str]:
    """The same at length: a line for each figure, and for each result that was shortened."""
    last = answer.last or {}
    ours = _ours(last)
    rows = [
        ("strategy", _strategy(ours)),
        ("because", str(ours.get("reason") or "")),
        ("prompt", _prompt(ours)),
        ("helper", _helper(ours)),
        ("first token", _awaited(answer).removeprefix("first token ")),
        ("loading", _seconds(last.get("load_duration"))),
        ("reading", _rate(last.get("prompt_eval_count"), last.get("prompt_eval_duration"), ours)),
        ("answer", _spoken(last)),
        ("in all", _seconds_in_all(last)),
        ("ended by", str(last.get("done_reason") or "")),
    ]
    lines = [f"{label:<12} {text}" for label, text in rows if text]
    return [*lines, *(f"{'shortened':<12} {_shortened(one)}" for one in ours.get("shortened") or ())]


def warnings(answer: Answer) -> list[str]:
    """What nobody should miss, whether they look at figures or not."""
    last = answer.last or {}
    ours = _ours(last)
    told = []
    if dropped := ours.get("dropped_messages"):
        told.append(f"the {dropped} oldest messages were left out: the chat does not fit the context")
    if fallback := ours.get("fallback"):
        told.append(f"not shortened: {fallback}")
    if ignored := ours.get("ignored"):
        told.append(f"options without effect here: {', '.join(ignored)}")
    if last.get("done_reason") == "length":
        told.append("cut off: num_predict or the context window was reached")
    return told


def _ours(last: Mapping[str, Any]) -> Mapping[str, Any]:
    ours = last.get("llm_optimizer")
    return ours if isinstance(ours, Mapping) else {}


def _strategy(ours: Mapping[str, Any]) -> str:
    strategy, planned = ours.get("strategy"), ours.get("planned")
    if strategy == planned or not planned:
        return str(strategy or "")
    return f"{strategy} instead of {planned}"


def _routed(ours: Mapping[str, Any]) -> str:
    shortened = len(ours.get("shortened") or ())
    results = f"{shortened} old results shortened" if shortened else ""
    return ", ".join(filter(None, (f"{_strategy(ours)} {_prompt(ours)}".strip(), _helper(ours), results)))


def _prompt(ours: Mapping[str, Any]) -> str:
    received, sent = ours.get("tokens_received"), ours.get("tokens_sent")
    if received is None or sent is None:
        return ""
    counted = f"{received:,}" if received == sent else f"{received:,} → {sent:,}"
    cached = ours.get("tokens_cached")
    return f"{counted} tokens" + (f" ({cached:,} cached)" if cached else "")


def _helper(ours: Mapping[str, Any]) -> str:
    made, reused = ours.get("summaries") or 0, ours.get("summaries_reused") or 0
    if not made:
        return ""
    counted = f"{made} {'summary' if made == 1 else 'summaries'}"
    again = f", {reused} of them from earlier turns" if reused else ""
    took = _seconds(ours.get("helper_duration"))
    return f"{counted}{again}" + (f" in {took}" if took else "")


def _awaited(answer: Answer) -> str:
    return "" if answer.first_token_s is None else f"first token {answer.first_token_s:.2f} s"


def _spoken(last: Mapping[str, Any]) -> str:
    count, duration_ns = last.get("eval_count") or 0, last.get("eval_duration") or 0
    if not count:
        return ""
    return f"{count:,} tokens" + (f" at {count / duration_ns * NS:.1f}/s" if duration_ns else "")


def _rate(received: int | None, duration_ns: int | None, ours: Mapping[str, Any]) -> str:
    read = (ours.get("tokens_sent") or received or 0) - (ours.get("tokens_cached") or 0)
    if not duration_ns or read <= 0:
        return ""
    return f"{read:,} tokens in {_seconds(duration_ns)}, {read / duration_ns * NS:,.0f}/s"


def _seconds_in_all(last: Mapping[str, Any]) -> str:
    return _seconds(last.get("total_duration"))


def _seconds(duration_ns: int | None) -> str:
    return f"{duration_ns / NS:.2f} s" if duration_ns else ""


def _shortened(one: Mapping[str, Any]) -> str:
    where = f"message {one.get('message')}"
    size = f"{one.get('characters', 0):,} → {one.get('characters_sent', 0):,} characters"
    return f"{where}, {one.get('subject') or 'a result'}: {one.get('how')}, {size}"
