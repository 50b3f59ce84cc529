"""From a request to the tokens that an engine reads, with every check on the way."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.catalogue import Installed
from server.chat.calls import schemas_of
from server.chat.parse import THINK_CLOSE, THINK_OPEN, Expected
from server.domain.chat import CompletionRequest, JsonObject, Message, RunOptions
from server.domain.errors import InvalidRequest, PromptTooLong
from server.domain.generation import Generation
from server.engine.grammar import grammar_of
from server.engine.sampling import check_grammar
from server.routing.drop import without_oldest
from server.service.loading import Loaded

ROOM_TOKENS = 512
"""Room for an answer of unknown length, where messages are left out for it."""

_ROLE_WITHIN_CHARS = 40


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens for an engine, and what the answer to them may hold."""

    tokens: tuple[int, ...]
    expected: Expected = field(default_factory=Expected)
    lasting_tokens: int = 0
    """So many at the start are the system prompt, which other conversations begin with as well."""


def check_abilities(
    installed: Installed,
    name: str,
    purpose: str,
    *,
    tools: bool = False,
    images: bool = False,
    think: bool | str | None = None,
) -> None:
    """Refuse what the model cannot do, in the words that clients look for.

    ``purpose`` is ``chat`` or ``generate``.

    Raises:
        InvalidRequest: it lacks a capability that the request needs.
    """
    can = installed.capabilities
    if "completion" not in can:
        raise InvalidRequest(f'"{name}" does not support {purpose}')
    if tools and "tools" not in can:
        raise InvalidRequest(f"{installed.entry.name.full} does not support tools")
    if think and "thinking" not in can:
        raise InvalidRequest(f'"{name}" does not support thinking')
    if images:
        raise InvalidRequest(f'"{name}" does not support image input: it is a text-only model')


async def chat_prompt(
    loaded: Loaded, messages: Sequence[Message], tools: Sequence[JsonObject], think: bool | str | None
) -> Prompt:
    """Render ``messages`` with the model's template. Runs in a thread: long histories take a while."""
    return await asyncio.to_thread(rendered_prompt, loaded, messages, tools, think)


async def truncated_prompt(
    loaded: Loaded,
    front: Sequence[Message],
    messages: Sequence[Message],
    tools: Sequence[JsonObject],
    options: RunOptions,
) -> tuple[Prompt, int] | None:
    """``messages`` without as many of the oldest as do not fit, and how many those are; None if what must
    stay does not fit either. ``front`` stands before them, and stays."""
    room = loaded.context_tokens - min(options.limit_tokens or ROOM_TOKENS, loaded.context_tokens // 4)

    def prompt_of(some: Sequence[Message]) -> Prompt:
        return rendered_prompt(loaded, (*front, *some), tools, options.think)

    def search() -> tuple[Prompt, int] | None:
        found = without_oldest(messages, lambda some: len(prompt_of(some).tokens) <= room)
        return None if found is None else (prompt_of(found), len(messages) - len(found))

    return await asyncio.to_thread(search)


async def completion_prompt(loaded: Loaded, request: CompletionRequest) -> Prompt:
    """The prompt of a request without a conversation: raw, filling a gap, or as one user message."""
    return await asyncio.to_thread(_completion_prompt, loaded, request)


async def to_generation(loaded: Loaded, prompt: Prompt, options: RunOptions) -> Generation:
    """The job for the engine.

    Raises:
        PromptTooLong: the prompt leaves no room for an answer in the context window.
        InvalidRequest: ``options.format`` is no schema, or a token of the logit bias is none of the model.
    """
    check_fits(prompt, loaded)
    check_tokens(loaded, "logit_bias", [token for token, _ in options.sampling.logit_bias])
    grammar = await _grammar(loaded, options)
    return Generation(
        prompt=prompt.tokens,
        sampling=options.sampling,
        max_tokens=options.limit_tokens,
        stop=options.stop or (),
        grammar=grammar,
        grammar_after=THINK_CLOSE if prompt.expected.thinking else None,
        grammar_unless=None if prompt.expected.inside_thinking else THINK_OPEN,
        lasting_tokens=prompt.lasting_tokens,
        alternatives=options.alternatives,
    )


async def check_format(loaded: Loaded, options: RunOptions) -> None:
    """Raise InvalidRequest if ``options.format`` is no schema, while a status can still say so."""
    await _grammar(loaded, options)


def fits(prompt: Prompt, loaded: Loaded) -> bool:
    """Whether the context window holds the prompt and at least one more token."""
    return len(prompt.tokens) < loaded.context_tokens


def check_fits(prompt: Prompt, loaded: Loaded) -> None:
    """Raise PromptTooLong where :func:`fits` is False."""
    if not fits(prompt, loaded):
        raise PromptTooLong(len(prompt.tokens), loaded.context_tokens)


def rendered_prompt(
    loaded: Loaded, messages: Sequence[Message], tools: Sequence[JsonObject], think: bool | str | None
) -> Prompt:
    """What :func:`chat_prompt` does, on this thread."""
    text = loaded.template.render(messages, tools, think)
    can_think = loaded.template.supports_thinking
    # Some templates open the thinking whether it is wanted or not.
    inside = can_think and text.rstrip().endswith(THINK_OPEN)
    expected = Expected(
        thinking=inside or (can_think and think is not False),
        tools=schemas_of(tools),
        inside_thinking=inside,
    )
    return _prompt(loaded, text, expected)


def _completion_prompt(loaded: Loaded, request: CompletionRequest) -> Prompt:
    if request.suffix:
        return Prompt(_infill(loaded, request))
    if request.raw:
        return _prompt(loaded, request.prompt, Expected())
    system = [Message("system", request.system)] if request.system else []
    check_tokens(loaded, "context", request.context)
    messages = (*system, *request.examples, Message("user", request.prompt))
    prompt = rendered_prompt(loaded, messages, (), request.options.think)
    if not request.context:
        return prompt
    return Prompt((*request.context, *prompt.tokens), prompt.expected)


def check_tokens(loaded: Loaded, field: str, tokens: Sequence[int]) -> None:
    """Raise InvalidRequest, which names ``field``, if one of ``tokens`` is none of the model's."""
    size = loaded.engine.model.vocabulary_size
    strange = next((token for token in tokens if not 0 <= token < size), None)
    if strange is not None:
        raise InvalidRequest(f"{field}: {strange} is no token of this model, which has 0 to {size - 1}")


def _infill(loaded: Loaded, request: CompletionRequest) -> tuple[int, ...]:
    special = loaded.engine.model.infill_tokens
    if special is None:
        raise InvalidRequest(f"{loaded.installed.entry.name.full} does not support insert")
    prefix, suffix, middle = special
    before = loaded.engine.model.tokenize(request.prompt, add_special=False, parse_special=False)
    after = loaded.engine.model.tokenize(request.suffix, add_special=False, parse_special=False)
    return (prefix, *before, suffix, *after, middle)


def _prompt(loaded: Loaded, text: str, expected: Expected) -> Prompt:
    model = loaded.engine.model
    # A template that writes the first token itself must not get it twice.
    add_special = not (model.bos and text.startswith(model.bos))
    tokens = tuple(model.tokenize(text, add_special=add_special))
    # Every template names the role before the words, so that raw prompts of clients count as well.
    begins_with_system = "system" in text[:_ROLE_WITHIN_CHARS]
    return Prompt(tokens, expected, model.first_message_end(tokens) if begins_with_system else 0)


async def _grammar(loaded: Loaded, options: RunOptions) -> str | None:
    # Threads for large schemas, and none where there is nothing to do.
    return None if options.format is None else await asyncio.to_thread(_checked_grammar, loaded, options)


def _checked_grammar(loaded: Loaded, options: RunOptions) -> str | None:
    grammar = grammar_of(options.format)
    if grammar is not None:
        check_grammar(loaded.engine.model, grammar)
    return grammar
