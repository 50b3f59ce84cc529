"""A client of a scripted server, asked without the service around it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from server.domain.chat import AnswerDelta, Message, RunOptions
from server.domain.errors import ServiceError
from server.remote import RemoteModel, RemoteSpec
from tests.remote.scripted import Scripted

HI = (Message("user", "Hi"),)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

Result = TypeVar("Result")


def spec_of(far: Scripted, **more: Any) -> RemoteSpec:
    """How to reach ``far``, in a window of 100 tokens."""
    defaults: dict[str, Any] = {"url": f"{far.url}/v1", "model": "far", "context_tokens": 100}
    return RemoteSpec(**{**defaults, **more})


def with_model(spec: RemoteSpec, work: Callable[[RemoteModel], Awaitable[Result]]) -> Result:
    """What ``work`` comes to with a client of its own."""

    async def run() -> Result:
        model = RemoteModel(spec, [].append)
        try:
            return await work(model)
        finally:
            await model.close()

    return asyncio.run(run())


async def answer(model: RemoteModel, options: RunOptions = RunOptions(), **chat: Any) -> list[Any]:  # noqa: B008
    """All parts of an answer to ``chat``."""
    prompt = await asyncio.to_thread(
        model.prompt, chat.get("messages", HI), chat.get("tools", ()), chat.get("think")
    )
    run = await prompt.submit(options)
    try:
        return [part async for part in run.parts()]
    finally:
        run.close()


async def until(there: Callable[[], bool]) -> None:
    """Wait for what happens in another thread."""
    async with asyncio.timeout(10):
        while not there():  # noqa: ASYNC110  # what is waited for happens in threads
            await asyncio.sleep(0.01)


def text_of(parts: list[Any]) -> str:
    """The words of an answer."""
    return "".join(part.content for part in parts if isinstance(part, AnswerDelta))


async def error_of(model: RemoteModel) -> ServiceError:
    """What an answer ends with."""
    with pytest.raises(ServiceError) as caught:
        await answer(model)
    return caught.value
