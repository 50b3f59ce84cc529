"""The items of a response's input, brought to messages."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from server.api.bodies import Lenient, parse, shown
from server.api.openai.content import read_content
from server.api.openai.messages import domain_role
from server.api.openai.tools import read_arguments
from server.api.results import named_results
from server.domain.chat import Message, ToolCall
from server.domain.errors import InvalidRequest


class _MessageItem(Lenient):
    role: str
    content: Any = ""


class _CallItem(Lenient):
    call_id: str
    name: str
    namespace: str = ""
    arguments: str = ""


class _OutputItem(Lenient):
    call_id: str
    output: Any = ""


class _Thought(Lenient):
    text: str = ""


class _ReasoningItem(Lenient):
    summary: list[_Thought] = Field(default_factory=list)
    content: list[_Thought] = Field(default_factory=list)


def read_input(value: Any, instructions: str) -> tuple[Message, ...]:
    """The conversation that ``input`` is: a text, or items in their order.

    Raises:
        InvalidRequest: naming the item.
    """
    conversation = _Conversation()
    if instructions:
        conversation.messages.append(Message("system", instructions))
    if isinstance(value, str):
        conversation.messages.append(Message("user", value))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            conversation.take(f"input[{number}]", item)
        conversation.end_thought()
    else:
        raise InvalidRequest(f"input must be a string or an array of items, but it is {shown(value)}")
    if not value:
        raise InvalidRequest("input is empty: there is nothing to respond to")
    return tuple(named_results(conversation.messages))


def qualified(namespace: str, name: str) -> str:
    """What the model calls a tool of a namespace."""
    return f"{namespace}.{name}" if namespace else name


class _Conversation:
    """Puts messages together: thoughts, words and calls of one turn are items of their own here."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._thoughts: list[str] = []
        self._readers: Mapping[str, Callable[[dict[str, Any]], None]] = {
            "message": self._message,
            "function_call": self._call,
            "function_call_output": self._output,
            "reasoning": self._reasoning,
            # Nothing of what was found is in it: the words that came of it are in the next message.
            "web_search_call": lambda _: None,
        }

    def take(self, place: str, item: Any) -> None:
        """Read the next item. Raises InvalidRequest."""
        if not isinstance(item, Mapping):
            raise InvalidRequest(f"{place} must be an object, but it is {shown(item)}")
        kind = item.get("type") or ("message" if "role" in item else None)
        reader = self._readers.get(kind) if isinstance(kind, str) else None
        if reader is None:
            raise InvalidRequest(
                f"{place}: unknown input item type: {shown(kind)}; nothing is stored here, and "
                "only messages, function calls with their outputs, and reasoning can be read"
            )
        try:
            reader(dict(item))
        except InvalidRequest as error:
            raise InvalidRequest(f"{place}: {error}") from error

    def end_thought(self) -> None:
        """A thought that led to nothing is a turn of its own."""
        if self._thoughts:
            self._add(Message("assistant"))

    def _message(self, item: dict[str, Any]) -> None:
        read = parse(_MessageItem, item)
        content = read_content("content", read.content)
        role = domain_role(read.role)
        if role != "assistant":
            self.end_thought()
        self._add(Message(role, content.text, images=content.images))

    def _call(self, item: dict[str, Any]) -> None:
        read = parse(_CallItem, item)
        name = qualified(read.namespace, read.name)
        call = ToolCall(name, read_arguments("arguments", read.arguments), read.call_id)
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == "assistant" and not self._thoughts:
            self.messages[-1] = replace(last, tool_calls=(*last.tool_calls, call))
        else:
            self._add(Message("assistant", tool_calls=(call,)))

    def _output(self, item: dict[str, Any]) -> None:
        read = parse(_OutputItem, item)
        content = read_content("output", read.output)
        self.end_thought()
        self._add(Message("tool", content.text, images=content.images, tool_call_id=read.call_id))

    def _reasoning(self, item: dict[str, Any]) -> None:
        read = parse(_ReasoningItem, item)
        # What is encrypted may be another server's; ours has the same words in the summary.
        self._thoughts += [thought.text for thought in read.summary or read.content if thought.text]

    def _add(self, message: Message) -> None:
        if message.role == "assistant" and self._thoughts:
            message, self._thoughts = replace(message, thinking="\n".join(self._thoughts)), []
        self.messages.append(message)
