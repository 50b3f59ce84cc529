"""The helper model as the shortener needs it: count and answer, wherever it runs."""

from collections.abc import Sequence

from server.domain.chat import AnswerDelta, Message, RunOptions
from server.domain.generation import Sampling
from server.service.answering import Answerer
from server.service.prompts import chat_prompt

GREEDY = Sampling(temperature=0.0)


class ReadyHelper:
    """Implements :class:`server.routing.condense.Helper`."""

    def __init__(self, model: Answerer, *, background: bool = False) -> None:
        """``background``: its work makes way for everyone who waits."""
        self._model = model
        self._background = background

    @property
    def context_tokens(self) -> int:
        """Its context window."""
        return self._model.context_tokens

    async def count(self, messages: Sequence[Message]) -> int:
        """Tokens of ``messages`` as this model's prompt."""
        return (await chat_prompt(self._model, messages, (), think=False)).size_tokens

    async def answer(self, messages: Sequence[Message], max_tokens: int) -> str:
        """The model's words, without thinking. Raises ServiceError when it cannot."""
        prompt = await chat_prompt(self._model, messages, (), think=False)
        options = RunOptions(
            sampling=GREEDY, named=frozenset({"temperature"}), max_tokens=max_tokens, think=False
        )
        run = await prompt.submit(options, background=self._background)
        try:
            return "".join([part.content async for part in run.parts() if isinstance(part, AnswerDelta)])
        finally:
            run.close()
