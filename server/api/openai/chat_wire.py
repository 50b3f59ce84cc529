"""Bodies of ``/v1/chat/completions``: JSON to the domain, and the domain to JSON."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import Field

from server.api.bodies import shown
from server.api.figures import what_was_done
from server.api.openai.figures import finish_reason, token_logprobs, usage
from server.api.openai.messages import ChatMessage, to_messages
from server.api.openai.run import Reasoning, Run, StreamOptions, read_text_format
from server.api.openai.sse import DONE, error_event, event
from server.api.openai.tools import Tool, arguments_text
from server.api.options import read_logprobs, read_tool_choice
from server.domain.chat import AnswerDelta, CallPart, ChatRequest, RunOptions, ToolCall
from server.domain.errors import InvalidRequest, ServiceError
from server.service.report import Outcome

FINGERPRINT = "fp_ollama"


class ChatBody(Run):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(default_factory=list)
    tools: list[Tool] = Field(default_factory=list)
    tool_choice: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    reasoning: Reasoning = Reasoning()
    reasoning_effort: Any = None
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    stream_options: StreamOptions = StreamOptions()
    modalities: list[Any] = Field(default_factory=list)
    functions: Any = None
    function_call: Any = None

    def to_domain(self) -> ChatRequest:
        """Raises InvalidRequest."""
        options = self._options()
        self._refuse_what_is_missing_here()
        if not self.messages:
            raise InvalidRequest("[] is too short - 'messages'")
        return ChatRequest(
            model=self.model,
            messages=to_messages(self.messages),
            tools=tuple(tool.to_domain(f"tools.{number}") for number, tool in enumerate(self.tools)),
            tool_choice=read_tool_choice(self.tool_choice),
            options=options,
            stream=self.stream,
            route="/v1/chat/completions",
        )

    def _options(self) -> RunOptions:
        # The older name of the limit still comes from many clients; some send both.
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        effort = self.reasoning_effort if self.reasoning.effort is None else self.reasoning.effort
        options = self.run_options(max_tokens=limit, effort=effort)
        return replace(
            options,
            format=read_text_format("response_format", self.response_format),
            alternatives=read_logprobs(self.logprobs, self.top_logprobs),
            # An agent shortens its history itself once it is told that it must, and better than this would.
            truncate=not self.tools if options.truncate is None else options.truncate,
        )

    def _refuse_what_is_missing_here(self) -> None:
        if self.n != 1:
            raise InvalidRequest(
                f"n must be 1, but it is {shown(self.n)}: a request gets one answer; "
                "send it again for another"
            )
        if self.functions is not None or self.function_call is not None:
            raise InvalidRequest(
                "functions and function_call are not supported; send tools and tool_choice, "
                "which took their place"
            )
        if any(modality != "text" for modality in self.modalities):
            raise InvalidRequest(f'modalities must be ["text"], but it is {shown(self.modalities)}')


class ChatAnswer:
    """Writes the answer to one chat."""

    def __init__(self, body: ChatBody) -> None:
        self._body = body
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._calls = StreamedCalls()

    def opening(self) -> Iterator[bytes]:
        """Says whose words will follow."""
        yield self._chunk({"role": "assistant", "content": ""})

    def pieces(self, delta: AnswerDelta) -> Iterator[bytes]:
        """A chunk, unless there is nothing new in it."""
        said: dict[str, Any] = {"content": delta.content} if delta.content else {}
        said |= _reasoning(delta.thinking)
        if calls := self._calls.pieces(delta):
            said["tool_calls"] = calls
        if said or delta.scores:
            yield self._chunk(said, **_logprobs(delta))

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """The reason of the end, the figures if they are wanted, and OpenAI's own last line."""
        reason = finish_reason(outcome, calls=self._calls.begun > 0)
        ours = {"llm_optimizer": what_was_done(outcome)}
        if not self._body.stream_options.include_usage:
            yield self._chunk({}, reason, beside=ours)
        else:
            yield self._chunk({}, reason)
            yield event(
                {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(outcome), **ours}
            )
        yield DONE

    def last_words(self, error: ServiceError) -> bytes:
        """Without OpenAI's last line: the answer is not complete."""
        return error_event(error)

    def whole(self, everything: AnswerDelta, outcome: Outcome) -> dict[str, Any]:
        """One object."""
        calls = whole_calls(everything)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": everything.content if everything.content or not calls else None,
            **_reasoning(everything.thinking),
        }
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": finish_reason(outcome, calls=bool(calls)),
            **_logprobs(everything),
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage(outcome),
            "llm_optimizer": what_was_done(outcome),
        }

    def _chunk(
        self,
        delta: dict[str, Any],
        reason: str | None = None,
        beside: dict[str, Any] | None = None,
        **more: Any,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, **more}
        usage_to_come = {"usage": None} if self._body.stream_options.include_usage else {}
        head = self._head("chat.completion.chunk")
        return event({**head, "choices": [choice], **usage_to_come, **(beside or {})})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._body.model,
            "system_fingerprint": FINGERPRINT,
        }


class StreamedCalls:
    """Tool calls piece by piece. One that came in parts does not come again when it is whole."""

    def __init__(self) -> None:
        self.begun = 0
        """So many calls have begun, in parts or whole."""
        self._whole = 0

    def pieces(self, delta: AnswerDelta) -> list[dict[str, Any]]:
        """What is new."""
        pieces = [self._part(part) for part in delta.call_parts]
        for call in delta.tool_calls:
            if self._whole == self.begun:
                pieces.append(_call_out(call, self.begun))
                self.begun += 1
            self._whole += 1
        return pieces

    def _part(self, part: CallPart) -> dict[str, Any]:
        self.begun = max(self.begun, part.index + 1)
        if part.name is None:
            return {"index": part.index, "function": {"arguments": part.arguments}}
        return _call_piece(part.index, part.id, part.name, part.arguments)


def whole_calls(everything: AnswerDelta) -> list[dict[str, Any]]:
    """All calls of an answer; one that was cut off has the arguments as far as they came."""
    calls = [_call_out(call, index) for index, call in enumerate(everything.tool_calls)]
    for part in everything.call_parts:
        if part.index >= len(everything.tool_calls):
            if part.name is not None:
                calls.append(_call_piece(part.index, part.id, part.name, ""))
            calls[-1]["function"]["arguments"] += part.arguments
    return calls


def _call_out(call: ToolCall, index: int) -> dict[str, Any]:
    return _call_piece(index, call.id, call.name, arguments_text(call.arguments))


def _call_piece(index: int, call_id: str | None, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {
        "index": index,
        "id": call_id or f"call_{secrets.token_hex(4)}",
        "type": "function",
        "function": function,
    }


def _reasoning(thinking: str) -> dict[str, str]:
    # Clients look for either of these names.
    return {"reasoning": thinking, "reasoning_content": thinking} if thinking else {}


def _logprobs(delta: AnswerDelta) -> dict[str, Any]:
    return {"logprobs": {"content": token_logprobs(delta.scores), "refusal": None}} if delta.scores else {}
