"""An answer as Anthropic's clients read it: message, blocks, figures."""

import secrets
from typing import Any

from server.domain.chat import AnswerDelta, RunOptions, ToolCall
from server.domain.generation import FinishReason
from server.service.report import Outcome


def new_message(model: str, usage: dict[str, int]) -> dict[str, Any]:
    """A message without content and end; ``model`` is the name as the client wrote it."""
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def first_usage(prompt_tokens: int) -> dict[str, int]:
    """What is known before the model has read anything."""
    return _usage(prompt_tokens, 0, 0)


def last_usage(outcome: Outcome) -> dict[str, int]:
    """Input and cached tokens together are the whole prompt, as Anthropic counts and clients add up.

    One token counts as read even where all were cached: clients take 0 for "not told", and would add the
    cached ones to the first estimate.
    """
    prompt = outcome.routing.tokens_received
    cached = min(outcome.usage.cached_tokens, prompt - 1)
    return _usage(prompt - cached, cached, outcome.usage.generated_tokens)


def _usage(read: int, cached: int, generated: int) -> dict[str, int]:
    return {
        "input_tokens": read,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": generated,
    }


def ending(outcome: Outcome, options: RunOptions, *, called: bool) -> dict[str, Any]:
    """``stop_reason`` and ``stop_sequence``. Only the client's own stop strings count as such a sequence."""
    sequence = outcome.stop if outcome.stop in (options.stop or ()) else None
    if outcome.reason is FinishReason.LENGTH:
        reason = _limit(outcome, options)
    elif called:
        reason = "tool_use"
    else:
        reason = "stop_sequence" if sequence else "end_turn"
    return {"stop_reason": reason, "stop_sequence": sequence if reason == "stop_sequence" else None}


def _limit(outcome: Outcome, options: RunOptions) -> str:
    most = options.limit_tokens
    own = most is not None and outcome.usage.generated_tokens >= most
    return "max_tokens" if own else "model_context_window_exceeded"


def empty_block(kind: str) -> dict[str, Any]:
    """A block of ``text`` or ``thinking``. A signature proves thinking to Anthropic; nobody here asks."""
    return {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}


def call_block(call: ToolCall) -> dict[str, Any]:
    """A whole call."""
    return {**empty_call(call.id, call.name), "input": dict(call.arguments)}


def empty_call(identity: str | None, name: str) -> dict[str, Any]:
    """A call whose arguments are still to come."""
    return {
        "type": "tool_use",
        "id": identity or f"toolu_{secrets.token_hex(12)}",
        "name": name,
        "input": {},
    }


class Content:
    """The blocks of an answer that is not streamed. Neighbours of one kind are one block."""

    def __init__(self) -> None:
        self._blocks: list[dict[str, Any]] = []
        self.called = False

    @property
    def blocks(self) -> list[dict[str, Any]]:
        """Never empty: clients reach for the first one."""
        return self._blocks or [empty_block("text")]

    def add(self, delta: AnswerDelta) -> None:
        """Take the next piece of the answer."""
        self._say("thinking", delta.thinking)
        self._say("text", delta.content)
        self._blocks += [call_block(call) for call in delta.tool_calls]
        self.called = self.called or bool(delta.tool_calls)

    def _say(self, kind: str, words: str) -> None:
        if not words:
            return
        if not self._blocks or self._blocks[-1]["type"] != kind:
            self._blocks.append(empty_block(kind))
        self._blocks[-1][kind] += words
