"""Bodies of ``/v1/responses``: JSON to the domain, and what a response repeats of its request."""

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from server.api.bodies import Body, Lenient, parse, shown
from server.api.openai.responses_items import qualified, read_input
from server.api.openai.run import Reasoning, Run, read_text_format
from server.api.openai.tools import Function
from server.api.options import read_logprobs, read_tool_choice
from server.domain.chat import ChatRequest, JsonObject, RunOptions
from server.domain.errors import InvalidRequest

LOGPROBS, SECRET_THOUGHTS = "message.output_text.logprobs", "reasoning.encrypted_content"
"""What ``include`` may ask for, of that which there is."""

_TRUNCATE: Mapping[str, bool] = {"auto": True, "disabled": False}


class _Text(Lenient):
    format: dict[str, Any] | None = None
    verbosity: Any = None


class _FlatTool(Lenient):
    type: Any = "function"
    name: str = ""
    tools: list[dict[str, Any]] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ToolName:
    """A tool as the client knows it; ``namespace`` is empty for most."""

    name: str
    namespace: str = ""


class ResponsesBody(Run):
    """``POST /v1/responses``."""

    input: Any = None
    instructions: str = ""
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Any = None
    max_output_tokens: int | None = None
    reasoning: Reasoning = Reasoning()
    text: _Text = _Text()
    truncation: Any = None
    include: list[Any] = Field(default_factory=list)
    top_logprobs: int = 0
    metadata: dict[str, Any] = Field(default_factory=dict)
    user: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: bool = False

    def to_domain(self) -> ChatRequest:
        """Raises InvalidRequest."""
        options = self._options()
        self._refuse_what_must_be_stored()
        offered = tuple(self._offered())
        return ChatRequest(
            model=self.model,
            messages=read_input(self.input, self.instructions),
            tools=tuple(tool for tool, _ in offered),
            tool_choice=read_tool_choice(self.tool_choice),
            options=options,
            stream=self.stream,
            route="/v1/responses",
        )

    def tool_names(self) -> Mapping[str, ToolName]:
        """The client's names of its tools, by what the model calls them."""
        return {qualified(name.namespace, name.name): name for _, name in self._offered()}

    def _options(self) -> RunOptions:
        options = self.run_options(max_tokens=self.max_output_tokens, effort=self.reasoning.effort)
        left_out = tuple(f"tools.{kind}" for kind in self._kinds_left_out())
        verbosity = ("text.verbosity",) if self.text.verbosity not in (None, "medium") else ()
        return replace(
            options,
            format=read_text_format("text.format", self.text.format),
            alternatives=read_logprobs(LOGPROBS in self.include, self.top_logprobs),
            truncate=self._truncate() if options.truncate is None else options.truncate,
            ignored=(*options.ignored, *left_out, *verbosity),
        )

    def _truncate(self) -> bool:
        value = "disabled" if self.truncation is None else self.truncation
        if not isinstance(value, str) or value not in _TRUNCATE:
            raise InvalidRequest(f'truncation must be "auto" or "disabled", but it is {shown(value)}')
        return _TRUNCATE[value]

    def _refuse_what_must_be_stored(self) -> None:
        for name in ("previous_response_id", "conversation", "prompt"):
            if getattr(self, name) is not None:
                raise InvalidRequest(
                    f"{name} is not supported: nothing is stored here; send the whole conversation as input"
                )
        if self.background:
            raise InvalidRequest("background is not supported: nothing is stored here; ask for a stream")

    def _offered(self) -> Iterator[tuple[JsonObject, ToolName]]:
        """The functions, those of namespaces among them. Raises InvalidRequest."""
        for number, tool in enumerate(self.tools):
            place = f"tools.{number}"
            read = _read(place, _FlatTool, tool)
            if read.type == "function":
                yield _function(place, tool)
            elif read.type == "namespace":
                for inner, item in enumerate(read.tools):
                    yield _function(f"{place}.tools.{inner}", item, read.name)

    def _kinds_left_out(self) -> Iterator[str]:
        """Tools that OpenAI runs itself: agents offer them to every server."""
        for tool in self.tools:
            kind = tool.get("type", "function")
            if kind not in ("function", "namespace"):
                yield str(kind)


def _function(place: str, tool: dict[str, Any], namespace: str = "") -> tuple[JsonObject, ToolName]:
    read = _read(place, Function, tool)
    return read.to_domain(qualified(namespace, read.name)), ToolName(read.name, namespace)


def _read(place: str, kind: type[Body], value: dict[str, Any]) -> Body:
    try:
        return parse(kind, value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{place}.{error}") from error


def repeated(body: ResponsesBody, options: RunOptions) -> dict[str, Any]:
    """A response before it has begun: what OpenAI's repeat of their request, and what is not known yet."""
    return {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions or None,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort, "summary": body.reasoning.summary},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": False,
        "background": False,
        "temperature": options.sampling.temperature,
        "top_p": options.sampling.top_p,
        "presence_penalty": options.sampling.presence_penalty,
        "frequency_penalty": options.sampling.frequency_penalty,
        "text": {"format": body.text.format or {"type": "text"}},
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": body.tools,
        "top_logprobs": body.top_logprobs,
        "truncation": "auto" if options.truncate else "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata,
    }
