"""The helper model as the shortener needs it: count and answer, on whatever engine it is loaded."""

from collections.abc import Sequence

from server.chat.parse import AnswerParser
from server.domain.chat import Message, RunOptions
from server.domain.generation import Sampling, TextDelta
from server.service.loading import Loaded
from server.service.prompts import chat_prompt, to_generation
from server.service.ticket import Ticket

GREEDY = Sampling(temperature=0.0)


class LoadedHelper:
    """Implements :class:`server.routing.condense.Helper`."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    @property
    def context_tokens(self) -> int:
        """Its context window."""
        return self._loaded.context_tokens

    async def count(self, messages: Sequence[Message]) -> int:
        """Tokens of ``messages`` as this model's prompt."""
        return len((await chat_prompt(self._loaded, messages, (), think=False)).tokens)

    async def answer(self, messages: Sequence[Message], max_tokens: int) -> str:
        """The model's words, without thinking. Raises ServiceError when it cannot."""
        prompt = await chat_prompt(self._loaded, messages, (), think=False)
        options = RunOptions(sampling=GREEDY, max_tokens=max_tokens)
        ticket = Ticket(self._loaded.engine, await to_generation(self._loaded, prompt, options))
        parser = AnswerParser(prompt.expected)
        words = []
        try:
            async for event in ticket.events():
                deltas = parser.feed(event.text) if isinstance(event, TextDelta) else parser.finish()
                words += [delta.content for delta in deltas]
        finally:
            ticket.close()
        return "".join(words)
