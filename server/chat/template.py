"""The model's own chat template, rendered in a sandbox."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from server.chat.renderer import Refused, Renderer
from server.domain.chat import JsonObject, Message, ToolCall
from server.domain.errors import InvalidRequest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What llama.cpp uses, too, for a model that brings no template."""


def supports_tools(source: str) -> bool:
    """Whether the template knows what to do with tool definitions."""
    return "tools" in source


def supports_thinking(source: str) -> bool:
    """Whether the template speaks of thinking."""
    return "<think>" in source or "enable_thinking" in source


class ChatTemplate:
    """A compiled template. ``source`` is Jinja text as ``tokenizer.chat_template`` holds it.

    Raises:
        InvalidRequest: ``source`` is not a template, or comes to no end.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        self.source = source
        self.supports_thinking = supports_thinking(source)
        self._special = {"bos_token": bos, "eos_token": eos}
        try:
            self._renderer = Renderer(source)
        except Refused as error:
            raise InvalidRequest(f"the model's chat template is broken: {error}") from error

    def render(
        self, messages: Sequence[Message], tools: Sequence[JsonObject] = (), think: bool | str | None = None
    ) -> str:
        """The prompt for ``messages``, ending where the assistant is to speak. Blocks.

        ``think`` True, False or a level sets the template's own switch; None lets a model think that can. A
        template that insists on roles that alternate gets neighbours of one role as one message.

        Raises:
            InvalidRequest: the template refuses these messages, or comes to no end.
        """
        try:
            return self._rendered_or_merged(messages, tools, think)
        except Refused as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}") from error

    def _rendered_or_merged(
        self, messages: Sequence[Message], tools: Sequence[JsonObject], think: bool | str | None
    ) -> str:
        try:
            return self._rendered(messages, tools, think)
        except Refused:
            merged = merged_neighbours(messages)
            if len(merged) == len(messages):
                raise
            return self._rendered(merged, tools, think)

    def _rendered(
        self, messages: Sequence[Message], tools: Sequence[JsonObject], think: bool | str | None
    ) -> str:
        wanted = self.supports_thinking if think is None else think is not False
        # Two names are in use: Qwen's and DeepSeek's.
        switches: dict[str, Any] = {"enable_thinking": wanted, "thinking": wanted}
        if isinstance(think, str):
            switches["reasoning_effort"] = think
        return self._renderer.render(
            {
                "messages": [_as_template_sees(message) for message in messages],
                "tools": list(tools) or None,
                "add_generation_prompt": True,
                **self._special,
                **switches,
            }
        )


def merged_neighbours(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Neighbouring messages of one role, which say something in words only, made one."""
    merged: list[Message] = []
    for message in messages:
        before = merged[-1] if merged else None
        if before is not None and _may_join(before, message):
            texts = (text for text in (before.content, message.content) if text)
            images = (*before.images, *message.images)
            merged[-1] = replace(before, content="\n\n".join(texts), images=images)
        else:
            merged.append(message)
    return tuple(merged)


def _may_join(before: Message, message: Message) -> bool:
    calls = before.tool_calls or message.tool_calls
    return before.role == message.role and before.role != "tool" and not calls and not message.thinking


def _as_template_sees(message: Message) -> dict[str, Any]:
    """The keys that templates ask for; those without a value stay undefined."""
    optional = {
        "reasoning_content": message.thinking,
        "tool_calls": [_tool_call(call) for call in message.tool_calls],
        "name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    given = {key: value for key, value in optional.items() if value}
    return {"role": message.role, "content": message.content, **given}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": dict(call.arguments)}
    return {"type": "function", "function": function, **({"id": call.id} if call.id else {})}
