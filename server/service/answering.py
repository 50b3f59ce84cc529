"""What the service needs of a model that answers, wherever it runs."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from server.domain.account import Generating
from server.domain.chat import AnswerDelta, AnswerEnd, CompletionRequest, JsonObject, Message, RunOptions
from server.engine.pace import Speed


class Run(Generating, Protocol):
    """An answer under way. Must be closed."""

    @property
    def queue_position(self) -> int:
        """Place in the queue when it was accepted, from 1; 0: it need not wait, or nobody knows."""

    def parts(self) -> AsyncIterator[AnswerDelta | AnswerEnd]:
        """Everything up to the end. Raises the ServiceError that the answer ended with."""

    def close(self) -> None:
        """Cancel the answer if it has not ended."""


class Prompt(Protocol):
    """What a model is to read."""

    @property
    def size_tokens(self) -> int:
        """How long it is."""

    @property
    def is_exact(self) -> bool:
        """Whether that was counted, and not estimated."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Its token ids; empty for a model whose vocabulary is not here."""

    @property
    def held_tokens(self) -> int:
        """So many at its start the model has read before, as far as is known."""

    async def submit(self, options: RunOptions, *, background: bool = False) -> Run:
        """Ask the model for an answer. ``background``: nobody waits for it, and all others go first.

        Raises:
            PromptTooLong: it leaves no room for an answer in the context window.
            InvalidRequest: ``options`` ask for something that this model cannot do.
            QueueFull, EngineFailed: it was not accepted.
        """


class Answerer(Protocol):
    """A model that answers, ready to work. Methods that are no coroutines may block, and run in threads."""

    @property
    def vocabulary(self) -> str:
        """Models with the same one count alike."""

    @property
    def context_tokens(self) -> int:
        """The context window."""

    @property
    def speed(self) -> Speed:
        """How fast it was lately."""

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[JsonObject], think: bool | str | None
    ) -> Prompt:
        """A chat as the model reads it."""

    def completion(self, request: CompletionRequest) -> Prompt:
        """A single prompt likewise: raw, filling a gap, or as one user message."""

    def count(self, text: str) -> int:
        """Tokens of a piece of text."""

    def refuse_when_full(self) -> None:
        """Raise what submitting would raise now."""

    async def check_format(self, options: RunOptions) -> None:
        """Raise InvalidRequest if ``options.format`` is no schema, while a status can still say so."""
