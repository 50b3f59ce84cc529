"""What can go wrong with a request, in words meant for the user.

    ServiceError
    ├── InvalidRequest        the request asks for something that cannot be done
    │   ├── BodyTooLarge      its body is larger than its sender may send
    │   └── PromptTooLong     it does not fit the context window, shortened or not
    │       └── TextTooLong   the same of a text that is to become a vector
    ├── NotAllowed            whoever asks lacks the right to it
    ├── NotSupported          the interface has it, and this service does not
    ├── ModelNotFound         no model of that name is here
    ├── ModelLoadFailed       the model is known but cannot be loaded: the reason is in the text
    ├── QueueFull             too many requests wait for that model
    │   └── DeviceShort       its device is short of memory
    ├── EngineFailed          the model's engine broke while it worked
    │   └── RemoteFailed      the server that runs the model did, or refuses us
    ├── RemoteAway            the server that runs the model cannot be reached, or takes nothing now
    ├── Unloaded              the model, or the whole service, ends before the answer does
    │   └── Stopping          the service ends, and takes nothing new
    └── RequestCancelled      the client went away

The dialects under ``server.api`` turn these into statuses; nothing below knows HTTP.
"""

LONGEST_CHARS = 2000


class ServiceError(Exception):
    """Base of all errors whose text is written for the user; what it repeats of a request is cut."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= LONGEST_CHARS else f"{text[:LONGEST_CHARS]}…"


class InvalidRequest(ServiceError):
    """The request names a field, a value or a wish that cannot be honoured."""


class BodyTooLarge(InvalidRequest):
    """The request has more bytes, packed or unpacked, than whoever sent it may send."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(
            f"the request body has more than {most_bytes // 2**20} MiB, as sent or unpacked; "
            "see the setting limits.body_mib"
        )


class NotAllowed(ServiceError):
    """Whoever asks may not do this; the text names the right that it takes."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the context window of its model."""

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"prompt is too long: {prompt_tokens} tokens exceed the context window of {context_tokens} tokens"
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class TextTooLong(PromptTooLong):
    """A text to be embedded is longer than its model reads."""

    def __init__(self, text_tokens: int, longest_tokens: int) -> None:
        super().__init__(text_tokens, longest_tokens)
        self.args = (
            f"the input length exceeds the context length: {text_tokens} tokens, and {longest_tokens} fit",
        )


class NotSupported(ServiceError):
    """A part of the interface that this service leaves out; the text says so, and what to do instead."""


class ModelNotFound(ServiceError):
    """No model answers to the name. ``name`` is as the client wrote it; ``text`` is for routes that have
    words of their own."""

    def __init__(self, name: str, text: str | None = None) -> None:
        super().__init__(text or f"model '{name}' not found")
        self.name = name


class ModelLoadFailed(ServiceError):
    """A configured model cannot be loaded; the text holds the reason and the remedy."""


class QueueFull(ServiceError):
    """As many requests wait for the model as the settings allow."""

    def __init__(self) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")


class DeviceShort(QueueFull):
    """The memory of the model's device is short; the text has the numbers."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.args = (f"server busy, please try again.  {reason}",)


class EngineFailed(ServiceError):
    """The engine broke in the middle of its work."""


class RemoteFailed(EngineFailed):
    """The server that runs a model broke off, answered what nobody understands, or refuses this service."""


class RemoteAway(ServiceError):
    """The server that runs a model cannot be reached, or takes nothing for now: a later try may succeed."""


class Unloaded(ServiceError):
    """The model leaves before the answer is complete."""


class Stopping(Unloaded):
    """The service is stopping: another try may reach the next one."""

    def __init__(self) -> None:
        super().__init__("the service is stopping; please try again")


class RequestCancelled(ServiceError):
    """The client hung up."""

    def __init__(self, why: str = "request canceled") -> None:
        super().__init__(why)
