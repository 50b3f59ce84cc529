"""A chat as the client keeps it: whoever asks sends all of it each time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from server.client.errors import ClientError

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A model, what it was told, and how it is asked. ``think`` None: as the model does by itself."""

    model: str
    system: str = ""
    messages: tuple[Message, ...] = ()
    options: Mapping[str, Any] | None = None
    think: bool | str | None = None
    form: str | Mapping[str, Any] | None = None
    keep_alive: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        """As ``/api/chat`` takes it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        wanted = {
            "options": self.options,
            "think": self.think,
            "format": self.form,
            "keep_alive": self.keep_alive,
        }
        given = {name: value for name, value in wanted.items() if value is not None and value != {}}
        return {"model": self.model, "messages": [*system, *self.messages], **given}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The conversation of such a body.

        Raises:
            ClientError: it is none.
        """
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not isinstance(messages, list):
            raise ClientError("a chat must have a model and a list of messages")
        if not all(isinstance(message, dict) and "role" in message for message in messages):
            raise ClientError("each message must be an object with a role")
        options = body.get("options") or {}
        if not isinstance(options, dict):
            raise ClientError("options must be an object")
        first = messages[0] if messages else {}
        system = str(first.get("content") or "") if first.get("role") == "system" else ""
        return cls(
            model,
            system,
            tuple(messages[1:] if system else messages),
            options,
            body.get("think"),
            body.get("format"),
            body.get("keep_alive"),
        )

    def asked(self, question: str) -> Self:
        """With one more question."""
        return replace(self, messages=(*self.messages, {"role": "user", "content": question}))

    def answered(self, message: Message) -> Self:
        """With one more answer."""
        return replace(self, messages=(*self.messages, message))

    def before_last_question(self) -> tuple[Self, str] | None:
        """Without the last question and what followed, and that question; None: nothing was asked yet."""
        for place in reversed(range(len(self.messages))):
            if self.messages[place].get("role") == "user":
                question = str(self.messages[place].get("content") or "")
                return replace(self, messages=self.messages[:place]), question
        return None

    def with_option(self, name: str, value: Any) -> Self:
        """With an option, or without it where ``value`` is None."""
        others = {key: old for key, old in (self.options or {}).items() if key != name}
        return replace(self, options=others if value is None else {**others, name: value})
