"""Chat requests as every dialect hands them to the service."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.domain.generation import Sampling

JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made. ``arguments`` is an object, never a string of JSON."""

    name: str
    arguments: JsonObject
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. ``images`` holds base64 text as it came."""

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a request wants to be run. None means: as the settings or the model say.

    ``max_tokens`` None is no limit but the context window.
    ``keep_alive_s`` is infinity for "for ever"; ``think`` is a switch or a level.
    ``format`` is None, the word ``json``, or a JSON schema.
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    context_tokens: int | None = None
    keep_alive_s: float | None = None
    think: bool | str | None = None
    format: str | JsonObject | None = None
    ignored: tuple[str, ...] = ()
    """Names of options that the client gave and this service does not act on."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat: ``model`` is the name as the client wrote it."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)
    stream: bool = True
    route: str = "/api/chat"
    """The path that the request came by, for the log."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A single prompt: templated unless ``raw``; with ``suffix`` the model fills the middle."""

    model: str
    prompt: str
    system: str | None = None
    suffix: str = ""
    raw: bool = False
    context: tuple[int, ...] = ()
    images: tuple[str, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)
    stream: bool = True
    route: str = "/api/generate"


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """A piece of an answer: words, thinking or whole tool calls."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
