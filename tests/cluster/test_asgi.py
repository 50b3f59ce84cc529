"""An application that is asked within its own process."""

import asyncio
from typing import Any

import pytest

from server.cluster.asgi import answer_of
from server.cluster.wire import Asked, Head, Piece

ASKED = Asked("POST", "/a b", b"x=1", ((b"host", b"here"),), ("10.0.0.1", 5), "http", b"body")


def test_the_request_arrives_whole_and_the_answer_comes_piece_by_piece() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, body=await receive())
        await send({"type": "http.response.start", "status": 201, "headers": [[b"a", b"b"]]})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await send({"type": "http.response.body", "body": b"2"})

    async def run() -> list[Any]:
        return [one async for one in answer_of(app, ASKED)]

    assert asyncio.run(run()) == [Head(201, ((b"a", b"b"),)), Piece(b"1"), Piece(b"2")]
    assert (seen["path"], seen["query_string"], seen["client"]) == ("/a b", b"x=1", ("10.0.0.1", 5))
    assert seen["body"] == {"type": "http.request", "body": b"body", "more_body": False}
    assert [tuple(header) for header in seen["headers"]] == [(b"host", b"here")]


def test_who_closes_the_answer_hangs_up_even_on_one_that_waits_for_room() -> None:
    ended = asyncio.Event()

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        gone = asyncio.create_task(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert (await gone)["type"] == "http.disconnect"
        ended.set()

    async def run() -> None:
        said = answer_of(app, ASKED)
        await anext(said)
        await anext(said)
        await asyncio.wait_for(said.aclose(), 5)

    asyncio.run(run())
    assert ended.is_set()


def test_an_application_that_does_not_hear_of_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.cluster.asgi._END_S", 0.1)
    ended: list[str] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def run() -> None:
        said = answer_of(app, ASKED)
        await anext(said)
        await said.aclose()

    asyncio.run(run())
    assert ended == ["cancelled"]


def test_a_bug_of_the_application_comes_out() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise LookupError("a bug")

    async def run() -> None:
        async for _ in answer_of(app, ASKED):
            pass

    with pytest.raises(LookupError, match="a bug"):
        asyncio.run(run())


def test_a_bug_that_the_answer_tells_of_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"sorry"})
        raise LookupError("a bug")

    async def run() -> list[Any]:
        return [one async for one in answer_of(app, ASKED)]

    assert asyncio.run(run()) == [Head(500, ()), Piece(b"sorry")]
    assert "a bug" in caplog.text
