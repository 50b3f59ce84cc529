"""Bodies of ``/v1/messages`` and ``/v1/messages/count_tokens``: JSON to the domain."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from server.api.anthropic.blocks import Content, TextBlock, as_blocks, to_messages
from server.api.bodies import Lenient, shown
from server.api.options import read_keep_alive, read_options
from server.api.results import named_results
from server.domain.chat import ChatRequest, JsonObject, Message, RunOptions, ToolChoice, ToolMode
from server.domain.errors import InvalidRequest
from server.domain.generation import Sampling

DEFAULTS = Sampling(temperature=1.0, top_p=1.0)
EFFORTS: Mapping[str, str] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
"""Anthropic's words for how hard to think, and the levels that there are here."""

BILLING = "x-anthropic-billing-header:"
"""Claude Code's first words of every system prompt: other figures in each request, meant for its maker's
servers. They would make every request's prompt another one from its beginning, and no cache could help."""

_ROLES = ("user", "assistant", "system")


def _known_role(role: str) -> str:
    if role not in _ROLES:
        raise ValueError(f'"{role}", which is none of {", ".join(_ROLES)}')
    return role


class _Message(Lenient):
    role: Annotated[str, AfterValidator(_known_role)]
    content: Content


def _text_only(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type", "text") != "text":
        raise ValueError(f"a block of the type {shown(value['type'])}; a system prompt has only text")
    return value


_SystemBlock = Annotated[TextBlock, BeforeValidator(_text_only)]


class _CustomTool(Lenient):
    name: str
    description: str = ""
    input_schema: dict[str, Any]
    strict: bool = False

    def to_domain(self) -> JsonObject:
        function = {"name": self.name, "description": self.description, "parameters": self.input_schema}
        return {"type": "function", "function": function}


class _ServerTool(Lenient):
    """One that Anthropic runs, or whose schema its models know by heart: nobody here could call it."""

    name: str = ""
    type: str


def _tool_kind(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    own = "input_schema" in value or value.get("type") in (None, "custom")
    return "custom" if own else "server"


_Tool = Annotated[
    Annotated[_CustomTool, Tag("custom")] | Annotated[_ServerTool, Tag("server")], Discriminator(_tool_kind)
]

_MODES: Mapping[str, ToolMode] = {
    "auto": ToolMode.AUTO,
    "any": ToolMode.REQUIRED,
    "tool": ToolMode.REQUIRED,
    "none": ToolMode.NONE,
}


class _ToolChoice(Lenient):
    type: str = "auto"
    name: str | None = None
    disable_parallel_tool_use: bool = False

    def to_domain(self) -> ToolChoice:
        mode = _MODES.get(self.type)
        if mode is None:
            raise InvalidRequest(
                f'tool_choice.type must be one of {", ".join(_MODES)}, but it is "{self.type}"'
            )
        if self.type != "tool":
            return ToolChoice(mode)
        if not self.name:
            raise InvalidRequest("tool_choice.name is missing: the type tool names one of the tools")
        return ToolChoice(mode, self.name)


_THINKING = ("enabled", "adaptive", "between_tools", "disabled")


class _Thinking(Lenient):
    type: str = "disabled"
    budget_tokens: Any = None

    @property
    def on(self) -> bool:
        """Raises InvalidRequest."""
        if self.type not in _THINKING:
            raise InvalidRequest(
                f'thinking.type must be one of {", ".join(_THINKING)}, but it is "{self.type}"'
            )
        return self.type != "disabled"


class _Format(Lenient):
    type: str
    json_schema: dict[str, Any] = Field(alias="schema")

    def to_domain(self) -> JsonObject:
        if self.type != "json_schema":
            raise InvalidRequest(f'output_config.format.type must be json_schema, but it is "{self.type}"')
        return self.json_schema


class _OutputConfig(Lenient):
    effort: str | None = None
    format: _Format | None = None


class MessagesBody(Lenient):
    """``POST /v1/messages``. ``options`` and ``keep_alive`` are Ollama's, for those who know them; they
    outrank what stands beside them."""

    model_config = ConfigDict(extra="allow")
    needs_limit: ClassVar[bool] = True

    model: str = ""
    max_tokens: int = 0
    messages: list[_Message] = Field(default_factory=list)
    system: Annotated[list[_SystemBlock], BeforeValidator(as_blocks)] = Field(default_factory=list)
    tools: list[_Tool] = Field(default_factory=list)
    tool_choice: _ToolChoice = _ToolChoice()
    thinking: _Thinking = _Thinking()
    output_config: _OutputConfig = _OutputConfig()
    output_format: _Format | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    keep_alive: Any = None
    metadata: Any = None
    """Says whom the client works for, which is of no interest here."""
    cache_control: Any = None
    """Asks for what happens anyway."""

    def to_domain(self, route: str) -> ChatRequest:
        """Raises InvalidRequest."""
        self._check()
        return ChatRequest(
            model=self.model,
            messages=tuple(named_results(self._conversation())),
            tools=tuple(tool.to_domain() for tool in self.tools if isinstance(tool, _CustomTool)),
            tool_choice=self.tool_choice.to_domain(),
            options=self._run_options(),
            stream=self.stream,
            route=route,
        )

    def _check(self) -> None:
        if not self.model:
            raise InvalidRequest("model is required")
        if self.needs_limit and self.max_tokens <= 0:
            raise InvalidRequest("max_tokens is required and must be positive")
        if not self.messages:
            raise InvalidRequest("messages is required")

    def _run_options(self) -> RunOptions:
        beside = {
            "num_predict": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": self.stop_sequences,
        }
        inside = {name: value for name, value in self.options.items() if value is not None}
        options = read_options({**beside, **inside}, DEFAULTS)
        form = self.output_config.format or self.output_format
        return replace(
            options,
            keep_alive_s=read_keep_alive(self.keep_alive),
            think=self._think(),
            format=form.to_domain() if form else None,
            ignored=(*options.ignored, *self._without_effect()),
        )

    def _think(self) -> bool | str:
        """Off unless asked for: clients who do not ask read the first block as the answer."""
        effort = self.output_config.effort
        if effort is not None and effort not in EFFORTS:
            raise InvalidRequest(
                f'output_config.effort must be one of {", ".join(EFFORTS)}, but it is "{effort}"'
            )
        return self.thinking.on and (EFFORTS[effort] if effort else True)

    def _conversation(self) -> Iterator[Message]:
        system = "\n\n".join(text for text in map(_without_billing, self._system_texts()) if text)
        if system:
            yield Message("system", system)
        for message in self.messages:
            yield from to_messages(message.role, message.content)

    def _system_texts(self) -> list[str]:
        return [block.text for block in self.system]

    def _without_effect(self) -> Iterator[str]:
        """Names of what the client asks for and nothing is done with."""
        yield from self.model_extra or {}
        yield from (f"tools.{tool.name or tool.type}" for tool in self.tools if isinstance(tool, _ServerTool))
        if any(isinstance(tool, _CustomTool) and tool.strict for tool in self.tools):
            yield "tools.strict"
        if self.tool_choice.disable_parallel_tool_use and self.tool_choice.type == "auto":
            yield "tool_choice.disable_parallel_tool_use"
        if self.thinking.budget_tokens is not None:
            yield "thinking.budget_tokens"
        if self.output_config.effort and not self.thinking.on:
            yield "output_config.effort"
        if any(text.startswith(BILLING) for text in self._system_texts()):
            yield BILLING.removesuffix(":")
        if self.tool_choice.type in ("any", "tool") and (self.output_config.format or self.output_format):
            yield "output_config.format"
        if self.messages and self.messages[-1].role == "assistant":
            yield "prefill"


class CountBody(MessagesBody):
    """``POST /v1/messages/count_tokens``."""

    needs_limit = False


def _without_billing(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(BILLING) else text
