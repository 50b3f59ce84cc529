"""Chat requests as every dialect hands them to the service."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from server.domain.account import Account
from server.domain.generation import FinishReason, Sampling, TokenScore, Usage

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


class ToolMode(StrEnum):
    """Whether the model may, must not or must call a tool."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``name`` is the one tool that must be called, where a request names it."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None


class Policy(StrEnum):
    """By what rules a chat is routed.

    ``auto`` is ``agent`` where an agent is at work, else ``thresholds``; ``adaptive`` is ``agent`` likewise,
    else whatever gives the first token soonest; ``direct`` shortens nothing; ``one-pass`` and ``map-reduce``
    shorten whatever may be, agents' chats too, so that the ways can be compared.
    """

    AUTO = "auto"
    DIRECT = "direct"
    THRESHOLDS = "thresholds"
    AGENT = "agent"
    ADAPTIVE = "adaptive"
    ONE_PASS = "one-pass"  # noqa: S105  # no password
    MAP_REDUCE = "map-reduce"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a request wants to be run. None means: as the settings or the model say.

    ``max_tokens`` None is no limit but the context window.
    ``keep_alive_s`` is infinity for "for ever"; ``think`` is a switch or a level.
    ``format`` is None, the word ``json``, or a JSON schema.
    ``alternatives`` asks for each token's log probability and those of so many likely ones.
    ``truncate`` says whether the oldest messages may go where a chat does not fit.
    """

    sampling: Sampling = field(default_factory=Sampling)
    named: frozenset[str] = frozenset()
    """Fields of ``sampling`` that the request itself gives, and ``max_tokens`` where it does: a model's own
    parameters stand in for the others."""
    max_tokens: int | None = None
    most_tokens: int | None = None
    """What whoever asks is allowed, whatever the request or its model says."""
    stop: tuple[str, ...] | None = None
    context_tokens: int | None = None
    keep_alive_s: float | None = None
    think: bool | str | None = None
    format: str | JsonObject | None = None
    alternatives: int | None = None
    truncate: bool | None = None
    must_call: ToolChoice | None = None
    """The tool call that the answer has to be. ``format`` asks for it as well."""
    ignored: tuple[str, ...] = ()
    """Names of options that the client gave and this service does not act on."""

    @property
    def limit_tokens(self) -> int | None:
        """The longest answer, by the request's own word and by what it is allowed."""
        limits = [tokens for tokens in (self.max_tokens, self.most_tokens) if tokens is not None]
        return min(limits, default=None)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat: ``model`` is the name as the client wrote it."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    options: RunOptions = field(default_factory=RunOptions)
    stream: bool = True
    route: str = "/api/chat"
    """The path that the request came by, for the log."""
    account: Account = field(default_factory=Account, compare=False)
    """Where it is written down what becomes of the request."""
    policy: Policy | None = None
    """By what rules it wants to be routed; None: as the settings say."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A single prompt: templated unless ``raw``; with ``suffix`` the model fills the middle.

    ``examples`` are messages that stand before the prompt where it is templated.
    """

    model: str
    prompt: str
    system: str | None = None
    suffix: str = ""
    raw: bool = False
    context: tuple[int, ...] = ()
    images: tuple[str, ...] = ()
    examples: tuple[Message, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)
    stream: bool = True
    route: str = "/api/generate"
    account: Account = field(default_factory=Account, compare=False)


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to be turned into vectors, in their order.

    ``dimensions`` cuts the vectors and makes them of length 1 again; None: as the model gives them.
    ``truncate`` cuts the tail of a text that is too long; otherwise such a text is an error.
    """

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    truncate: bool = True
    options: RunOptions = field(default_factory=RunOptions)
    route: str = "/api/embed"
    account: Account = field(default_factory=Account, compare=False)


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of a tool call while it is written: the first has ``id`` and ``name``, the others more
    text of the JSON object that the arguments are. ``index`` counts the calls of an answer."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """A piece of an answer: words, thinking, or tool calls.

    A call comes whole in ``tool_calls``, after it has come in pieces in ``call_parts``: a dialect writes
    the one or the other. ``scores`` are those of the tokens since the last delta.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_parts: tuple[CallPart, ...] = ()
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The last part of an answer that ran to its end. ``tokens`` are the generated ids, as far as they are
    known here; ``thinking_tokens`` of them were thinking; ``stop`` is the stop string that ended it."""

    reason: FinishReason
    usage: Usage
    tokens: tuple[int, ...] = ()
    stop: str | None = None
    thinking_tokens: int = 0
