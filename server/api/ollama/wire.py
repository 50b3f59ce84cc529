"""Bodies of ``/api/chat`` and ``/api/generate``: JSON to the domain, and the domain to JSON."""

import datetime
from dataclasses import replace
from typing import Any

from pydantic import Field

from server.api.bodies import Image, Lenient, encoded
from server.api.figures import LEAST_LOGPROB, what_was_done
from server.api.options import (
    read_format,
    read_keep_alive,
    read_logprobs,
    read_options,
    read_think,
    read_tool_choice,
)
from server.api.results import named_results
from server.domain.chat import AnswerDelta, ChatRequest, CompletionRequest, Message, RunOptions, ToolCall
from server.domain.errors import InvalidRequest, ServiceError
from server.domain.generation import TokenScore
from server.routing.agents import agent_signs
from server.service.report import Outcome

NDJSON = "application/x-ndjson"


class _Function(Lenient):
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class _ToolCall(Lenient):
    id: str | None = None
    function: _Function


class _Message(Lenient):
    role: str = ""
    content: str = ""
    thinking: str = ""
    images: list[Image] = Field(default_factory=list)
    tool_calls: list[_ToolCall] = Field(default_factory=list)
    tool_name: str | None = None
    tool_call_id: str | None = None

    def to_domain(self) -> Message:
        return Message(
            role=self.role.lower(),
            content=self.content,
            thinking=self.thinking,
            images=tuple(self.images),
            tool_calls=tuple(
                ToolCall(call.function.name, call.function.arguments, call.id) for call in self.tool_calls
            ),
            tool_name=self.tool_name,
            tool_call_id=self.tool_call_id,
        )


class Run(Lenient):
    """What chat and generate have in common.

    ``max_output_tokens``, ``temperature`` and ``top_p`` beside the options are what Cline sends.
    """

    model: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    stream: bool = True
    format: Any = None
    keep_alive: Any = None
    think: Any = None
    truncate: bool | None = None
    shift: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    max_output_tokens: Any = None
    temperature: Any = None
    top_p: Any = None
    debug_render_only: bool = Field(default=False, alias="_debug_render_only")

    def run_options(self) -> RunOptions:
        """Everything about how the request is to be run. Raises InvalidRequest."""
        if self.debug_render_only:
            raise InvalidRequest(
                "_debug_render_only is not supported; POST /api/tokenize with the messages gives the prompt"
            )
        beside = {
            "num_predict": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        inside = {name: value for name, value in self.options.items() if value is not None}
        options = read_options({**beside, **inside})
        return replace(
            options,
            keep_alive_s=read_keep_alive(self.keep_alive),
            think=read_think(self.think),
            format=read_format(self.format),
            alternatives=read_logprobs(self.logprobs, self.top_logprobs),
            truncate=self.truncate,
            ignored=(*options.ignored, *(("shift",) if self.shift else ())),
        )


class ChatBody(Run):
    """``POST /api/chat``."""

    messages: list[_Message] = Field(default_factory=list)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Any = None
    """Not Ollama's, but Cline sends it."""

    def to_domain(self) -> ChatRequest:
        """Raises InvalidRequest."""
        options = self.run_options()
        messages = tuple(named_results(message.to_domain() for message in self.messages))
        truncate = self.truncate
        if truncate is None:
            # An agent shortens its history itself once it is told that it must, and better than this would.
            truncate = agent_signs(messages, has_tools=bool(self.tools)) is None
        return ChatRequest(
            model=self.model,
            messages=messages,
            tools=tuple(self.tools),
            tool_choice=read_tool_choice(self.tool_choice),
            options=replace(options, truncate=truncate),
            stream=self.stream,
        )


class GenerateBody(Run):
    """``POST /api/generate``."""

    prompt: str = ""
    suffix: str = ""
    system: str | None = None
    template: str = ""
    raw: bool = False
    context: list[int] = Field(default_factory=list)
    images: list[Image] = Field(default_factory=list)

    def to_domain(self) -> CompletionRequest:
        """Raises InvalidRequest."""
        if self.raw and (self.template or self.system or self.context):
            raise InvalidRequest("raw mode does not support template, system, or context")
        if self.template:
            raise InvalidRequest(
                "template: Go templates are not supported; the model's own Jinja template is used. "
                "Leave the field out, or send a finished prompt with raw: true"
            )
        return CompletionRequest(
            model=self.model,
            prompt=self.prompt,
            system=self.system,
            suffix=self.suffix,
            raw=self.raw,
            context=tuple(self.context),
            images=tuple(self.images),
            options=self.run_options(),
            stream=self.stream,
        )


class NamedBody(Lenient):
    """A request about one model; ``name`` is the older key."""

    model: str = ""
    name: str = ""

    @property
    def wanted(self) -> str:
        """The name, by whichever key it came."""
        return self.model or self.name


class ShowBody(NamedBody):
    """``POST /api/show``. ``system`` and ``options`` show what a model would be like with them."""

    verbose: bool = False
    system: str = ""
    options: dict[str, Any] = Field(default_factory=dict)


def line(value: dict[str, Any]) -> bytes:
    """One object of a stream."""
    return encoded(value) + b"\n"


def error_line(error: ServiceError) -> bytes:
    """The line that ends a stream in which something went wrong."""
    return line({"error": str(error)})


def now() -> str:
    """This moment as RFC 3339, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def _score(score: TokenScore) -> dict[str, Any]:
    text = score.piece.decode("utf-8", "replace")
    told = {"token": text, "logprob": max(score.logprob, LEAST_LOGPROB), "bytes": list(score.piece)}
    if not score.alternatives:
        return told
    return {**told, "top_logprobs": [_score(other) for other in score.alternatives]}


def _logprobs(delta: AnswerDelta) -> dict[str, Any]:
    return {"logprobs": [_score(score) for score in delta.scores]} if delta.scores else {}


def chat_chunk(model: str, delta: AnswerDelta, first_call: int = 0) -> dict[str, Any]:
    """A piece of a chat's answer; ``first_call`` is the number of tool calls before it."""
    message: dict[str, Any] = {"role": "assistant", "content": delta.content}
    if delta.thinking:
        message["thinking"] = delta.thinking
    if delta.tool_calls:
        message["tool_calls"] = [
            _call_out(call, index) for index, call in enumerate(delta.tool_calls, first_call)
        ]
    return {
        "model": model,
        "created_at": now(),
        "message": message,
        "done": False,
        **_logprobs(delta),
    }


def generate_chunk(model: str, delta: AnswerDelta) -> dict[str, Any]:
    """A piece of the answer to a single prompt."""
    thinking = {"thinking": delta.thinking} if delta.thinking else {}
    return {
        "model": model,
        "created_at": now(),
        "response": delta.content,
        **thinking,
        "done": False,
        **_logprobs(delta),
    }


def closing(outcome: Outcome) -> dict[str, Any]:
    """What the last object has beyond a chunk: Ollama's figures, and under ``llm_optimizer`` ours."""
    usage = outcome.usage
    figures = {
        "total_duration": outcome.total_ns,
        "load_duration": outcome.load_ns,
        "prompt_eval_count": outcome.routing.tokens_received,
        "prompt_eval_duration": usage.prefill_ns,
        "eval_count": usage.generated_tokens,
        "eval_duration": usage.decode_ns,
    }
    return {
        "done": True,
        "done_reason": outcome.reason.value,
        **{name: figure for name, figure in figures.items() if figure},
        "llm_optimizer": what_was_done(outcome),
    }


def _call_out(call: ToolCall, index: int) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": dict(call.arguments)}
    return {**({"id": call.id} if call.id else {}), "function": function}
