"""What a request is to the soak: what goes out, what must come back, and when its client hangs up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Wire(StrEnum):
    """How an answer is written, its errors included."""

    OLLAMA = "ollama"
    EMBED = "ollama embeddings"
    OLLAMA_OTHER = "ollama, any other"
    OPENAI = "openai"
    RESPONSES = "openai responses"
    ANTHROPIC = "anthropic"
    COUNT = "anthropic count"
    EVENTS = "events of the page"
    TEXT = "a text"


class Key(StrEnum):
    """Whose key a request brings."""

    USE = "use"
    ADMIN = "admin"
    TURN = "turn"
    """The one that comes and goes with the reloads."""
    WRONG = "wrong"
    NONE = "none"


@dataclass(frozen=True)
class Expected:
    """What must come back.

    ``outcome`` and ``route`` are the labels that /metrics counts it under; None is whatever the answer tells,
    and the path that was asked.
    """

    status: int = 200
    outcome: str | None = None
    route: str | None = None


GOOD = Expected()


@dataclass(frozen=True)
class Plan:
    """One request. ``kind`` names it in the report; the client hangs up after some seconds or some lines."""

    kind: str
    path: str
    body: Any
    """What becomes JSON; bytes go out as they are, None is no body."""
    wire: Wire
    expected: Expected = GOOD
    method: str = "POST"
    key: Key = Key.USE
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    most_tokens: int | None = None
    formed: bool = False
    tool: str | None = None
    """The tool that the model must call."""
    manner: str = "answered"
    hang_up_after_s: float | None = None
    hang_up_after_lines: int | None = None

    @property
    def route(self) -> str:
        """The label of its route in /metrics."""
        return self.expected.route or self.path.partition("?")[0]


@dataclass(frozen=True)
class Answer:
    """What came back; ``complete`` is False where the client hung up, ``status`` 0 before anything came."""

    status: int
    lines: tuple[str, ...]
    complete: bool = True


@dataclass(frozen=True)
class Told:
    """What an answer says: what is wrong with it, how it ended (an outcome of /metrics), and its tokens."""

    faults: tuple[str, ...] = ()
    outcome: str = "ok"
    prompt_tokens: int = 0
    generated_tokens: int = 0
