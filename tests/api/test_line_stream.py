"""The stream of lines by itself, without a server: its order, its heartbeats, its end."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from server.api import http
from server.api.http import LineStream
from server.domain.account import Account
from server.domain.errors import EngineFailed

Lines = AsyncGenerator[bytes, None]


class Connection:
    """An ASGI server's side of a response; hangs up when told."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.news = asyncio.Condition()
        self.closed = 0
        self.account = Account()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        async with self.news:
            self.news.notify_all()

    async def beaten(self, times: int) -> None:
        async with self.news:
            await self.news.wait_for(lambda: self.bodies.count(b"beat\n") >= times)

    async def close(self) -> None:
        self.closed += 1

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]

    async def run(self, lines: Lines) -> None:
        stream = LineStream(
            lines,
            heartbeat=lambda: b"beat\n",
            last_words=lambda error: f"error: {error}\n".encode(),
            close=self.close,
            media_type="application/x-ndjson",
            headers={"x-a": "b"},
        )
        await stream({"type": "http", "state": {"account": self.account}}, self.receive, self.send)


def conversation(make_lines: Any) -> Connection:
    async def run() -> Connection:
        connection = Connection()
        await connection.run(make_lines(connection))
        return connection

    return asyncio.run(run())


def test_lines_come_in_order_and_then_the_end() -> None:
    async def lines(_: Connection) -> Lines:
        yield b"1\n"
        yield b"2\n"

    connection = conversation(lines)
    assert connection.sent[0]["status"] == 200
    assert (b"x-a", b"b") in connection.sent[0]["headers"]
    assert connection.bodies == [b"1\n", b"2\n", b""]
    assert connection.sent[-1]["more_body"] is False
    assert connection.closed == 1


def test_silence_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEARTBEAT_S", 0.05)

    async def lines(connection: Connection) -> Lines:
        await connection.beaten(2)
        yield b"1\n"
        await connection.beaten(3)

    assert conversation(lines).bodies == [b"beat\n", b"beat\n", b"1\n", b"beat\n", b""]


def test_no_heartbeat_comes_between_lines_that_keep_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEARTBEAT_S", 0.5)

    async def lines(_: Connection) -> Lines:
        for _ in range(100):
            await asyncio.sleep(0.01)
            yield b"1\n"

    assert conversation(lines).bodies == [b"1\n"] * 100 + [b""]


def test_an_error_is_the_last_line() -> None:
    async def lines(_: Connection) -> Lines:
        yield b"1\n"
        raise EngineFailed("broken")

    connection = conversation(lines)
    assert connection.bodies == [b"1\n", b"error: broken\n", b""]
    assert isinstance(connection.account.error, EngineFailed)


def test_a_bug_is_not_told_in_detail() -> None:
    async def lines(_: Connection) -> Lines:
        yield b"1\n"
        raise ZeroDivisionError("secret")

    one, words, end = conversation(lines).bodies
    assert (one, end) == (b"1\n", b"")
    assert words.startswith(b"error: internal error")
    assert b"secret" not in words


def test_a_hang_up_ends_the_lines_at_once() -> None:
    ended = []

    async def lines(connection: Connection) -> Lines:
        try:
            yield b"1\n"
            connection.gone.set()
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    connection = conversation(lines)
    assert connection.bodies == [b"1\n"]
    assert (connection.closed, ended) == (1, [True])


def test_a_slow_reader_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one line waits for the network, a heartbeat does not get in between, nor behind the end."""
    monkeypatch.setattr(http, "HEARTBEAT_S", 0.02)

    class Slow(Connection):
        async def send(self, message: Any) -> None:
            await asyncio.sleep(0.06)
            await super().send(message)

    async def lines() -> Lines:
        yield b"1\n"

    async def run() -> Connection:
        connection = Slow()
        await connection.run(lines())
        return connection

    bodies = asyncio.run(run()).bodies
    assert bodies[-1] == b""
    assert set(bodies[:-1]) <= {b"1\n", b"beat\n"}
    assert bodies.count(b"") == 1
