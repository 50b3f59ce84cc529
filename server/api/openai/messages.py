"""Messages of a chat completion."""

from collections.abc import Sequence
from typing import Any

from server.api.bodies import Lenient
from server.api.openai.content import Content, read_content
from server.api.openai.tools import read_arguments
from server.api.results import named_results
from server.domain.chat import Message, ToolCall
from server.domain.errors import InvalidRequest


class _Function(Lenient):
    name: str
    arguments: str = ""


class _ToolCall(Lenient):
    id: str | None = None
    function: _Function


class ChatMessage(Lenient):
    """A message as clients write it. Thinking comes back under either of two names."""

    role: str
    content: Any = None
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    function_call: Any = None

    def to_domain(self, place: str) -> Message:
        """Raises InvalidRequest, naming ``place``."""
        self._refuse_function_calls(place)
        content = self._content(place)
        calls = tuple(
            _call(f"{place}.tool_calls.{number}", call) for number, call in enumerate(self.tool_calls or ())
        )
        role = domain_role(self.role)
        return Message(
            role=role,
            content=content.text,
            thinking=self.reasoning or self.reasoning_content,
            images=content.images,
            tool_calls=calls,
            tool_name=self.name if role == "tool" else None,
            tool_call_id=self.tool_call_id,
        )

    def _content(self, place: str) -> Content:
        if self.content is not None:
            return read_content(f"{place}.content", self.content)
        if self.tool_calls is None:
            raise InvalidRequest(
                f"invalid message content type: <nil>; {place}.content may be null beside tool_calls only"
            )
        return Content("")

    def _refuse_function_calls(self, place: str) -> None:
        if self.function_call is not None or self.role == "function":
            raise InvalidRequest(
                f"{place}: function_call and the role function are not supported; "
                "send tool_calls and the role tool"
            )


def domain_role(role: str) -> str:
    """Chat templates know no developer: what they are told in that name, they read from the system."""
    plain = role.lower()
    return "system" if plain == "developer" else plain


def to_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Raises InvalidRequest."""
    read = (message.to_domain(f"messages.{number}") for number, message in enumerate(messages))
    return tuple(named_results(read))


def _call(place: str, call: _ToolCall) -> ToolCall:
    arguments = read_arguments(f"{place}.function.arguments", call.function.arguments)
    return ToolCall(call.function.name, arguments, call.id)
