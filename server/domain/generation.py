"""What goes into an engine and what comes out: tokens in, text and figures out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from server.domain.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is picked. Defaults are Ollama's.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``repeat_last_n`` 0 switch the step off;
    ``repeat_last_n`` -1 looks back over the whole context. ``seed`` None is random.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids with what is added to their logits; minus infinity forbids one."""


class FinishReason(StrEnum):
    """Why a generation ended: the model's own end or a stop string, or a limit on length."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Generation:
    """One job for an engine. ``prompt`` holds token ids; ``max_tokens`` None means no own limit."""

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    """GBNF text with the rule ``root``, or None."""
    grammar_after: str | None = None
    """The grammar holds only behind the first occurrence of this text; None: from the start."""
    grammar_unless: str | None = None
    """Where an answer does not begin with this text, ``grammar_after`` is not waited for; None: it is."""
    lasting_tokens: int = 0
    """So many tokens at the start also begin other conversations (system prompt, tools): they are kept
    in the cache before all else, and on disk."""
    background: bool = False
    """Nobody waits for it: whoever is waited for goes first."""
    alternatives: int | None = None
    """Report each token's log probability, and those of so many likely ones; None: do not."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a generation cost. ``prompt_tokens`` counts the whole prompt, cached tokens included.

    ``read_tokens`` of it went through the model, more often than once where it had to make room for another
    answer. ``guessed_tokens`` were proposed as drafts, and ``accepted_tokens`` of them were right.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    queued_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    read_tokens: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0
    prompt_counted: bool = True
    """``prompt_tokens`` is no estimate."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token with its bytes and the natural logarithm of its probability, before any sampling."""

    token: int
    piece: bytes
    logprob: float
    alternatives: tuple["TokenScore", ...] = ()
    """The likeliest tokens at this place, the likeliest first."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of generated text, never half a character; ``scores`` of the tokens since the last one."""

    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a generation that ran to its end. ``tokens`` are the generated ids,
    ``scores`` those that no piece of text carried, ``stop`` is the stop string that ended it."""

    reason: FinishReason
    usage: Usage
    tokens: tuple[int, ...]
    scores: tuple[TokenScore, ...] = ()
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a generation that broke or was cancelled."""

    error: ServiceError


EngineEvent = TextDelta | Finished | Failed
EventSink = Callable[[EngineEvent], None]
"""Called on the engine's own thread; must not block."""
