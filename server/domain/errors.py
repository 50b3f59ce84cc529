"""What can go wrong with a request, in words meant for the user.

    ServiceError
    ├── InvalidRequest        the request asks for something that cannot be done
    │   └── PromptTooLong     it does not fit the context window, shortened or not
    ├── ModelNotFound         no model of that name is configured
    ├── ModelLoadFailed       the model is known but cannot be loaded: the reason is in the text
    ├── QueueFull             too many requests wait for that model
    ├── EngineFailed          the model's engine broke while it worked
    └── RequestCancelled      the client went away, or the service is stopping

The dialects under ``server.api`` turn these into statuses; nothing below knows HTTP.
"""


class ServiceError(Exception):
    """Base of all errors whose text is written for the user."""


class InvalidRequest(ServiceError):
    """The request names a field, a value or a wish that cannot be honoured."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the context window of its model."""

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"prompt is too long: {prompt_tokens} tokens exceed the context window of {context_tokens} tokens"
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class ModelNotFound(ServiceError):
    """No configured model answers to the name. ``name`` is as the client wrote it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}' not found")
        self.name = name


class ModelLoadFailed(ServiceError):
    """A configured model cannot be loaded; the text holds the reason and the remedy."""


class QueueFull(ServiceError):
    """As many requests wait for the model as the settings allow."""

    def __init__(self) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")


class EngineFailed(ServiceError):
    """The engine broke in the middle of its work."""


class RequestCancelled(ServiceError):
    """The client hung up or the service stops."""

    def __init__(self, why: str = "request canceled") -> None:
        super().__init__(why)
