"""What a request asks for, brought to the terms in which the rest of the service works."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from server.catalogue import Parameters, Recipe
from server.chat.calls import forced_call, schemas_of
from server.domain.chat import ChatRequest, CompletionRequest, Message, RunOptions, ToolMode
from server.domain.errors import InvalidRequest
from server.domain.generation import Sampling

_SYSTEM_ROLES = ("system", "developer")
_OF_SAMPLING = frozenset(field.name for field in fields(Sampling))


def with_tool_choice(request: ChatRequest) -> ChatRequest:
    """A chat that must not call tools loses them; one that must call one gets its schema as format.

    Raises:
        InvalidRequest: the tool that must be called is none of the request's.
    """
    choice = request.tool_choice
    if choice.mode is ToolMode.NONE:
        return replace(request, tools=())
    if choice.mode is not ToolMode.REQUIRED:
        return request
    tools = schemas_of(request.tools)
    if not tools:
        raise InvalidRequest("tool_choice asks for a tool call, but the request has no tools")
    if choice.name is not None and choice.name not in tools:
        known = ", ".join(tools)
        raise InvalidRequest(f'tool_choice names "{choice.name}", which is none of the tools: {known}')
    options = replace(request.options, format=forced_call(tools, choice.name), must_call=choice)
    return replace(request, options=options)


def with_parameters(options: RunOptions, parameters: Parameters) -> RunOptions:
    """The wishes of a request, with the model's own parameters for what the request leaves open.

    They come before the dialect's defaults, and after all that the request names.
    """
    own = parameters.given
    if not own:
        return options
    unnamed = {name: own[name] for name in own if name in _OF_SAMPLING and name not in options.named}
    open_end = options.max_tokens is None and "max_tokens" not in options.named
    stop = tuple(own["stop"]) if "stop" in own else None
    return replace(
        options,
        sampling=replace(options.sampling, **_as_sampling(unnamed)),
        max_tokens=_limit(own.get("num_predict")) if open_end else options.max_tokens,
        stop=stop if options.stop is None else options.stop,
        context_tokens=options.context_tokens or own.get("num_ctx"),
    )


def front_of(recipe: Recipe, messages: Sequence[Message]) -> tuple[Message, ...]:
    """What a model puts before the messages of a chat: its examples, and its system text where the chat
    does not begin with one."""
    has_own = bool(messages) and messages[0].role in _SYSTEM_ROLES
    system = () if has_own or not recipe.system else (Message("system", recipe.system),)
    return (*system, *_examples(recipe))


def with_texts(request: CompletionRequest, recipe: Recipe) -> CompletionRequest:
    """A single prompt with its model's system text, where it brings none, and the model's examples.

    A finished prompt gets neither, nor does a gap to be filled; one that goes on gets no examples.
    """
    if request.raw or request.suffix:
        return request
    examples = () if request.context else _examples(recipe)
    return replace(request, system=request.system or recipe.system or None, examples=examples)


def _examples(recipe: Recipe) -> tuple[Message, ...]:
    return tuple(Message(example.role, example.content) for example in recipe.messages)


def _as_sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama's words for "random" and "off" in ours."""
    values = dict(given)
    if values.get("seed") == -1:
        values["seed"] = None
    for name, least in (("top_k", 0), ("repeat_last_n", -1)):
        if name in values:
            values[name] = max(values[name], least)
    return values


def _limit(tokens: int | None) -> int | None:
    return None if tokens is None or tokens < 0 else tokens
