"""A stream whose reply takes its time to open, because the model is being loaded."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from starlette.requests import Request

from server.api import http
from server.api.http import opened_soon
from server.domain.chat import AnswerDelta
from server.domain.errors import ModelLoadFailed, RequestCancelled
from server.service.reply import Opening, Reply
from server.service.report import Outcome

HELLO = AnswerDelta("Hello")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PATIENCE_S", 0.01)


class Client:
    """A client that may hang up, and the model that it waits for."""

    def __init__(self) -> None:
        self.gone, self.loaded = asyncio.Event(), asyncio.Event()
        self.closed = 0

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def opening(self, error: Exception | None = None) -> Reply:
        await self.loaded.wait()
        if error is not None:
            raise error
        resources = contextlib.AsyncExitStack()
        resources.callback(self.count_closed)
        return Reply(Opening(None, "", 3), self.parts(), resources)

    async def parts(self) -> AsyncIterator[AnswerDelta | Outcome]:
        yield HELLO

    def count_closed(self) -> None:
        self.closed += 1

    async def open(self, error: Exception | None = None) -> Reply:
        request = Request({"type": "http", "headers": []}, self.receive)
        return await opened_soon(request, self.opening(error))


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def test_a_reply_that_is_there_is_handed_on() -> None:
    async def scene() -> None:
        client = Client()
        client.loaded.set()
        reply = await client.open()
        assert reply.opening == Opening(None, "", 3)
        assert [part async for part in reply] == [HELLO]
        await reply.aclose()
        assert client.closed == 1

    run(scene())


def test_an_error_that_comes_in_time_is_raised() -> None:
    async def scene() -> None:
        client = Client()
        client.loaded.set()
        with pytest.raises(ModelLoadFailed, match="no room"):
            await client.open(ModelLoadFailed("no room"))

    run(scene())


def test_a_late_reply_is_read_when_it_comes() -> None:
    async def scene() -> None:
        client = Client()
        reply = await client.open()
        assert reply.opening is None
        client.loaded.set()
        assert [part async for part in reply] == [HELLO]
        await reply.aclose()
        assert client.closed == 1

    run(scene())


def test_a_late_error_comes_while_reading() -> None:
    async def scene() -> None:
        client = Client()
        reply = await client.open(ModelLoadFailed("no room"))
        client.loaded.set()
        with pytest.raises(ModelLoadFailed, match="no room"):
            _ = [part async for part in reply]
        await reply.aclose()

    run(scene())


def test_whoever_hangs_up_waits_no_longer() -> None:
    async def scene() -> None:
        client = Client()
        client.gone.set()
        with pytest.raises(RequestCancelled):
            await client.open()
        late = await Client().open()
        await late.aclose()

    run(scene())
