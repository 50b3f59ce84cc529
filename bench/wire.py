"""What goes to the two servers and what comes back: JSON bodies and streamed lines."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from server.domain.chat import JsonObject, Message

MODEL_NAME = "bench:model"

Sampling = tuple[tuple[str, float], ...]
"""Options that both servers know by the same names."""

GREEDY: Sampling = (("temperature", 0.0),)
SAMPLED: Sampling = (
    ("temperature", 0.8),
    ("top_k", 40),
    ("top_p", 0.9),
    ("min_p", 0.0),
    ("repeat_penalty", 1.0),
    ("presence_penalty", 0.0),
    ("frequency_penalty", 0.0),
)

TimedLine = tuple[float, bytes]
"""A line of an answer, and the clock in seconds when its last byte arrived."""


class AnswerFailed(Exception):
    """A server answered with an error, or with something else than its own format."""


class EndedEarly(Exception):
    """A server generated fewer tokens than it was asked for."""


@dataclass(frozen=True)
class Request:
    """A finished prompt, and how many tokens are to be generated after it."""

    prompt: str
    tokens: int
    seed: int = 1
    sampling: Sampling = GREEDY


@dataclass(frozen=True)
class Chat(Request):
    """The same as a chat, for our server: ``prompt`` is what ``messages`` and ``tools`` are rendered to."""

    messages: tuple[Message, ...] = ()
    tools: tuple[JsonObject, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that arrived at once, and when, on the clock that ``Answer.sent_s`` is on."""

    arrived_s: float
    text: str


@dataclass(frozen=True)
class Answer:
    """An answer that ran to its end. ``pieces`` holds those with text only; counts are the server's own."""

    sent_s: float
    ended_s: float
    pieces: tuple[Piece, ...]
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int

    @property
    def text(self) -> str:
        """Everything that was generated."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def first_token_s(self) -> float:
        """Seconds from the request to the first text, or to the end of an answer without text."""
        return (self.pieces[0].arrived_s if self.pieces else self.ended_s) - self.sent_s

    @property
    def total_s(self) -> float:
        """Seconds from the request to the end of the answer."""
        return self.ended_s - self.sent_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second after the first one."""
        return (self.generated_tokens - 1) / (self.pieces[-1].arrived_s - self.pieces[0].arrived_s)

    def gaps_s(self, since_s: float) -> list[float]:
        """Seconds that each piece came after the one before it, for those that came after ``since_s``."""
        times = [piece.arrived_s for piece in self.pieces]
        return [later - earlier for earlier, later in pairwise(times) if later > since_s]


class Dialect(Protocol):
    """How one of the servers is spoken to."""

    def call(self, request: Request) -> tuple[str, bytes]:
        """The path and the JSON that ask for ``request``."""
        ...

    def answer(self, sent_s: float, lines: Sequence[TimedLine]) -> Answer:
        """Read a streamed answer. Raises AnswerFailed."""
        ...


class Ollama:
    """``/api/generate`` with a raw prompt, or ``/api/chat``, answered in lines of JSON."""

    def call(self, request: Request) -> tuple[str, bytes]:
        """The path and the JSON that ask for ``request``."""
        options = {**dict(request.sampling), "num_predict": request.tokens, "seed": request.seed}
        wanted = {"model": MODEL_NAME, "options": options}
        if isinstance(request, Chat):
            messages = [{"role": message.role, "content": message.content} for message in request.messages]
            return "/api/chat", _encoded({**wanted, "messages": messages, "tools": request.tools})
        return "/api/generate", _encoded({**wanted, "prompt": request.prompt, "raw": True})

    def answer(self, sent_s: float, lines: Sequence[TimedLine]) -> Answer:
        """Read a streamed answer. Raises AnswerFailed."""
        objects = [(at_s, _object(line)) for at_s, line in lines]
        ended_s, last = _last(objects)
        if not last.get("done"):
            raise AnswerFailed(f"the answer stopped without an end: {last}")
        return Answer(
            sent_s=sent_s,
            ended_s=ended_s,
            pieces=_pieces((at_s, _text(chunk)) for at_s, chunk in objects),
            prompt_tokens=int(last["prompt_eval_count"]),
            cached_tokens=int(last["llm_optimizer"]["tokens_cached"]),
            generated_tokens=int(last.get("eval_count", 0)),
        )


class LlamaCpp:
    """``/completion`` of llama-server, answered in server-sent events."""

    def call(self, request: Request) -> tuple[str, bytes]:
        """The path and the JSON that ask for ``request``."""
        wanted = {"prompt": request.prompt, "n_predict": request.tokens, "seed": request.seed}
        switches = {"stream": True, "ignore_eos": True}
        return "/completion", _encoded({**wanted, **dict(request.sampling), **switches})

    def answer(self, sent_s: float, lines: Sequence[TimedLine]) -> Answer:
        """Read a streamed answer. Raises AnswerFailed."""
        # Lines that begin with a colon only keep the connection alive while a long prompt is read.
        events = [(at_s, line) for at_s, line in lines if line and not line.startswith(b":")]
        objects = [(at_s, _object(line.removeprefix(b"data: "))) for at_s, line in events]
        ended_s, last = _last(objects)
        if not last.get("stop"):
            raise AnswerFailed(f"the answer stopped without an end: {last}")
        return Answer(
            sent_s=sent_s,
            ended_s=ended_s,
            pieces=_pieces((at_s, event.get("content", "")) for at_s, event in objects),
            prompt_tokens=int(last["tokens_evaluated"]),
            cached_tokens=int(last["timings"]["cache_n"]),
            generated_tokens=int(last["tokens_predicted"]),
        )


def _text(chunk: dict[str, Any]) -> str:
    text: str = chunk["message"]["content"] if "message" in chunk else chunk.get("response", "")
    return text


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise AnswerFailed(f"not a line of JSON: {line[:200]!r}") from error
    if not isinstance(value, dict) or "error" in value:
        raise AnswerFailed(f"an error in place of an answer: {line[:500]!r}")
    return value


def _last(objects: Sequence[tuple[float, dict[str, Any]]]) -> tuple[float, dict[str, Any]]:
    if not objects:
        raise AnswerFailed("an empty answer")
    return objects[-1]


def _pieces(texts: Iterable[tuple[float, str]]) -> tuple[Piece, ...]:
    return tuple(Piece(at_s, text) for at_s, text in texts if text)
