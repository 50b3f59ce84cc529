"""Tools that a request offers, whether they must be used, and calls of them in a conversation."""

from typing import Any

from server.api.bodies import Lenient, encoded, shown
from server.api.jsontext import parsed_json
from server.domain.chat import JsonObject
from server.domain.errors import InvalidRequest


class Function(Lenient):
    """What the model is told of a tool. ``strict`` and other keys are not for its eyes."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None

    def to_domain(self, name: str | None = None) -> JsonObject:
        """As chat templates want it; ``name`` is what the model calls it, if not as the client does."""
        told = {"description": self.description, "parameters": self.parameters}
        known = {key: value for key, value in told.items() if value is not None}
        return {"type": "function", "function": {"name": name or self.name, **known}}


class Tool(Lenient):
    """An item of ``tools`` in a chat completion."""

    type: Any = "function"
    function: Function | None = None

    def to_domain(self, place: str) -> JsonObject:
        """Raises InvalidRequest."""
        if self.function is None or self.type != "function":
            raise InvalidRequest(
                f'{place} is a tool of the type {shown(self.type)}; only "function" with its '
                "description under that key is supported"
            )
        return self.function.to_domain()


def read_arguments(place: str, text: str) -> JsonObject:
    """The arguments of a call, which clients send as text. No text at all means no arguments.

    Raises:
        InvalidRequest: ``text`` is no JSON object; ``place`` is where the client wrote it.
    """
    if not text.strip():
        return {}
    try:
        return parsed_json(text.encode("utf-8", "replace"))
    except InvalidRequest as error:
        raise InvalidRequest(
            f"invalid tool call arguments: {place} must be a JSON object in a string, but it is {shown(text)}"
        ) from error


def arguments_text(arguments: JsonObject) -> str:
    """The other way round."""
    return encoded(dict(arguments)).decode()
