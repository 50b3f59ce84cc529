"""The helper model as the shortener needs it: count and answer, on whatever engine it is loaded."""

from collections.abc import Sequence
from dataclasses import replace

from server.chat.parse import AnswerParser
from server.domain.chat import Message, RunOptions
from server.domain.generation import Sampling, TextDelta
from server.service.loading import Loaded
from server.service.prompts import chat_prompt, to_generation
from server.service.ticket import Ticket

GREEDY = Sampling(temperature=0.0)


class LoadedHelper:
    """Implements :class:`server.routing.condense.Helper`."""

    def __init__(self, loaded: Loaded, *, background: bool = False) -> None:
        """``background``: its work makes way for everyone who waits."""
        self._loaded = loaded
        self._background = background

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
        generation = await to_generation(self._loaded, prompt, options)
        ticket = Ticket(self._loaded.engine, replace(generation, background=self._background))
        parser = AnswerParser(prompt.expected)
        words = []
        try:
            async for event in ticket.events():
                deltas = parser.feed(event.text) if isinstance(event, TextDelta) else parser.finish()
                words += [delta.content for delta in deltas]
        finally:
            ticket.close()
        return "".join(words)
