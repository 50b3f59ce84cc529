"""A model in memory, and the tokens that it is given to read, with every check on the way."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.catalogue import Installed
from server.chat.calls import schemas_of
from server.chat.parse import THINK_CLOSE, THINK_OPEN, Expected
from server.chat.template import ChatTemplate
from server.domain.chat import CompletionRequest, JsonObject, Message, RunOptions
from server.domain.errors import InvalidRequest, PromptTooLong
from server.domain.generation import Generation
from server.engine.embeddings import Embedder
from server.engine.engine import Engine
from server.engine.grammar import grammar_of
from server.engine.pace import Speed
from server.engine.sampling import check_grammar
from server.service.placement import Placement
from server.service.running import LocalRun

_ROLE_WITHIN_CHARS = 40


@dataclass(slots=True)
class Loaded:
    """A model that answers, ready to work. Implements :class:`server.service.answering.Answerer`."""

    installed: Installed
    engine: Engine
    template: ChatTemplate
    placement: Placement

    @property
    def vocabulary(self) -> str:
        """Models with the same one count alike."""
        return self.installed.file.fingerprint

    @property
    def context_tokens(self) -> int:
        """The context window as it is now."""
        return self.engine.state.context_tokens

    @property
    def speed(self) -> Speed:
        """How fast it was lately."""
        return self.engine.speed

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[JsonObject], think: bool | str | None
    ) -> "TokenPrompt":
        """``messages`` as the model's own template writes them."""
        text = self.template.render(messages, tools, think)
        can_think = self.template.supports_thinking
        # Some templates open the thinking whether it is wanted or not.
        inside = can_think and text.rstrip().endswith(THINK_OPEN)
        expected = Expected(
            thinking=inside or (can_think and think is not False),
            tools=schemas_of(tools),
            inside_thinking=inside,
        )
        return self._of_text(text, expected)

    def completion(self, request: CompletionRequest) -> "TokenPrompt":
        """A prompt without a conversation: raw, filling a gap, or as one user message."""
        if request.suffix:
            return TokenPrompt(self, self._infill(request))
        if request.raw:
            return self._of_text(request.prompt, Expected())
        system = [Message("system", request.system)] if request.system else []
        self.check_tokens("context", request.context)
        messages = (*system, *request.examples, Message("user", request.prompt))
        prompt = self.prompt(messages, (), request.options.think)
        if not request.context:
            return prompt
        return TokenPrompt(self, (*request.context, *prompt.tokens), prompt.expected)

    def count(self, text: str) -> int:
        """Tokens of a piece of text."""
        return len(self.engine.model.tokenize(text, add_special=False, parse_special=False))

    def refuse_when_full(self) -> None:
        """Raise what submitting would raise now."""
        self.engine.refuse_when_full()

    async def check_format(self, options: RunOptions) -> None:
        """Raise InvalidRequest if ``options.format`` is no schema, while a status can still say so."""
        await self.grammar(options)

    def check_tokens(self, field: str, tokens: Sequence[int]) -> None:
        """Raise InvalidRequest, which names ``field``, if one of ``tokens`` is none of the model's."""
        size = self.engine.model.vocabulary_size
        strange = next((token for token in tokens if not 0 <= token < size), None)
        if strange is not None:
            raise InvalidRequest(f"{field}: {strange} is no token of this model, which has 0 to {size - 1}")

    async def grammar(self, options: RunOptions) -> str | None:
        """``options.format`` as a grammar. Raises InvalidRequest if it is no schema."""
        # Threads for large schemas, and none where there is nothing to do.
        return None if options.format is None else await asyncio.to_thread(self._checked_grammar, options)

    def _checked_grammar(self, options: RunOptions) -> str | None:
        grammar = grammar_of(options.format)
        if grammar is not None:
            check_grammar(self.engine.model, grammar)
        return grammar

    def _infill(self, request: CompletionRequest) -> tuple[int, ...]:
        model = self.engine.model
        if model.infill_tokens is None:
            raise InvalidRequest(f"{self.installed.entry.name.full} does not support insert")
        prefix, suffix, middle = model.infill_tokens
        before = model.tokenize(request.prompt, add_special=False, parse_special=False)
        after = model.tokenize(request.suffix, add_special=False, parse_special=False)
        return (prefix, *before, suffix, *after, middle)

    def _of_text(self, text: str, expected: Expected) -> "TokenPrompt":
        model = self.engine.model
        # A template that writes the first token itself must not get it twice.
        add_special = not (model.bos and text.startswith(model.bos))
        tokens = tuple(model.tokenize(text, add_special=add_special))
        # Every template names the role before the words, so that raw prompts of clients count as well.
        begins_with_system = "system" in text[:_ROLE_WITHIN_CHARS]
        lasting_tokens = model.first_message_end(tokens) if begins_with_system else 0
        return TokenPrompt(self, tokens, expected, lasting_tokens)


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Tokens for an engine, and what the answer to them may hold. Implements
    :class:`server.service.answering.Prompt`."""

    loaded: Loaded
    tokens: tuple[int, ...]
    expected: Expected = field(default_factory=Expected)
    lasting_tokens: int = 0
    """So many at the start are the system prompt, which other conversations begin with as well."""

    @property
    def size_tokens(self) -> int:
        """How long it is."""
        return len(self.tokens)

    @property
    def is_exact(self) -> bool:
        """The vocabulary is here."""
        return True

    @property
    def held_tokens(self) -> int:
        """So many at its start lie in the engine's cache, as of the last look at it."""
        return self.loaded.engine.known_tokens(self.tokens)

    async def submit(self, options: RunOptions, *, background: bool = False) -> LocalRun:
        """Hand it to the engine.

        Raises:
            PromptTooLong: it leaves no room for an answer in the context window.
            InvalidRequest: ``options.format`` is no schema, or a token of the logit bias is none of the
                model's.
            QueueFull, EngineFailed: it was not accepted.
        """
        loaded = self.loaded
        if self.size_tokens >= loaded.context_tokens:
            raise PromptTooLong(self.size_tokens, loaded.context_tokens)
        loaded.check_tokens("logit_bias", [token for token, _ in options.sampling.logit_bias])
        grammar = await loaded.grammar(options)
        return LocalRun(loaded.engine, self._generation(options, grammar, background), self.expected)

    def _generation(self, options: RunOptions, grammar: str | None, background: bool) -> Generation:
        return Generation(
            prompt=self.tokens,
            sampling=options.sampling,
            max_tokens=options.limit_tokens,
            stop=options.stop or (),
            grammar=grammar,
            grammar_after=THINK_CLOSE if self.expected.thinking else None,
            grammar_unless=None if self.expected.inside_thinking else THINK_OPEN,
            lasting_tokens=self.lasting_tokens,
            background=background,
            alternatives=options.alternatives,
        )


@dataclass(slots=True)
class LoadedEmbedder:
    """A model that turns texts into vectors, ready to work."""

    installed: Installed
    engine: Embedder
    placement: Placement

    @property
    def context_tokens(self) -> int:
        """The longest text."""
        return self.engine.longest_tokens
