"""The door of a service that stops, without one."""

import asyncio
from typing import Any

import anyio
import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.api.draining import Draining
from server.service.drain import Drain

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Inner:
    """An application whose answers take as long as a test wants."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def endless() -> Any:
            yield b"first "
            self.entered.set()
            await anyio.sleep_forever()

        if scope["path"] == "/events":
            await StreamingResponse(endless())(scope, receive, send)
            return
        self.entered.set()
        if scope["path"] != "/quick":
            await self.let_go.wait()
        await PlainTextResponse("done")(scope, receive, send)


class Door:
    """The middleware around an :class:`Inner`, and a client for it."""

    def __init__(self) -> None:
        self.inner, self.drain = Inner(), Drain()
        app = Draining(self.inner, drain=self.drain, refusal=self._refuse)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")

    @staticmethod
    def _refuse(_scope: Scope, status: int, text: str) -> JSONResponse:
        return JSONResponse({"error": text}, status)


async def test_answers_under_way_finish_and_new_ones_are_refused() -> None:
    door = Door()
    answer = asyncio.create_task(door.client.post("/slow"))
    await door.inner.entered.wait()
    door.drain.begin()
    assert door.drain.answering == 1
    assert not await door.drain.finished(0.01)
    refused = await door.client.post("/slow")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert (await door.client.get("/quick")).text == "done"
    finished = asyncio.create_task(door.drain.finished(30))
    door.inner.let_go.set()
    assert (await answer).text == "done"
    assert await finished
    assert door.drain.answering == 0


async def test_an_answer_that_breaks_is_none_any_more() -> None:
    door = Door()
    answer = asyncio.create_task(door.client.post("/slow"))
    await door.inner.entered.wait()
    answer.cancel()
    assert await door.drain.finished(30)


async def test_who_only_looks_on_is_not_waited_for_and_cut_cleanly() -> None:
    door = Door()
    looking = asyncio.create_task(door.client.get("/events"))
    await door.inner.entered.wait()
    door.inner.entered.clear()
    silent = asyncio.create_task(door.client.get("/slow"))
    await door.inner.entered.wait()
    door.drain.begin()
    assert await door.drain.finished(0)
    door.drain.cut()
    assert (await looking).text == "first "
    cut = await silent
    assert (cut.status_code, cut.json()) == (503, {"error": "the service is stopping; please try again"})


async def test_a_download_is_neither_waited_for_nor_cut() -> None:
    door = Door()
    pulling = asyncio.create_task(door.client.post("/api/pull"))
    await door.inner.entered.wait()
    door.drain.begin()
    assert await door.drain.finished(0)
    door.drain.cut()
    door.inner.let_go.set()
    assert (await pulling).text == "done"
    assert (await door.client.post("/api/pull")).status_code == 503
