"""From a request to the prompt that a model reads, with the checks that hold for every model."""

import asyncio
from collections.abc import Sequence

from server.catalogue import Installed
from server.domain.chat import CompletionRequest, JsonObject, Message, RunOptions
from server.domain.errors import InvalidRequest, PromptTooLong
from server.routing.drop import without_oldest
from server.service.answering import Answerer, Prompt

ROOM_TOKENS = 512
"""Room for an answer of unknown length, where messages are left out for it."""


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
    model: Answerer, messages: Sequence[Message], tools: Sequence[JsonObject], think: bool | str | None
) -> Prompt:
    """``messages`` as the model reads them. Runs in a thread: long histories take a while."""
    return await asyncio.to_thread(model.prompt, messages, tools, think)


async def truncated_prompt(
    model: Answerer,
    front: Sequence[Message],
    messages: Sequence[Message],
    tools: Sequence[JsonObject],
    options: RunOptions,
) -> tuple[Prompt, int] | None:
    """``messages`` without as many of the oldest as do not fit, and how many those are; None if what must
    stay does not fit either. ``front`` stands before them, and stays."""
    room = model.context_tokens - min(options.limit_tokens or ROOM_TOKENS, model.context_tokens // 4)

    def prompt_of(some: Sequence[Message]) -> Prompt:
        return model.prompt((*front, *some), tools, options.think)

    def search() -> tuple[Prompt, int] | None:
        found = without_oldest(messages, lambda some: prompt_of(some).size_tokens <= room)
        return None if found is None else (prompt_of(found), len(messages) - len(found))

    return await asyncio.to_thread(search)


async def completion_prompt(model: Answerer, request: CompletionRequest) -> Prompt:
    """The prompt of a request without a conversation."""
    return await asyncio.to_thread(model.completion, request)


def fits(prompt: Prompt, model: Answerer) -> bool:
    """Whether the context window holds the prompt and at least one more token."""
    return prompt.size_tokens < model.context_tokens


def check_fits(prompt: Prompt, model: Answerer) -> None:
    """Raise PromptTooLong where :func:`fits` is False."""
    if not fits(prompt, model):
        raise PromptTooLong(prompt.size_tokens, model.context_tokens)
