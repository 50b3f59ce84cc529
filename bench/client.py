"""An HTTP client that does next to nothing while an answer streams in.

It notes when bytes arrive and looks into them only after the answer's end, so that it takes the
servers' processor time on neither side.
"""

import asyncio
from collections.abc import Sequence
from time import perf_counter

from bench.wire import Answer, AnswerFailed, Dialect, EndedEarly, Request, TimedLine

HOST = "127.0.0.1"
HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"
OK = 200
UNAVAILABLE = 503
ANSWER_S = 900.0
READS_BEFORE_LATE = 6

Arrival = tuple[float, bytes]
"""Bytes as they came off the socket, and the clock in seconds."""


class NotReady(AnswerFailed):
    """The server does not answer yet."""


class ConnectionBroke(AnswerFailed):
    """The server hung up in the middle of an answer, or before it."""


class Connection(asyncio.Protocol):
    """A connection for one request. ``answering`` is set when some pieces have come, or nothing more will."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._arrivals: list[Arrival] = []
        self._seen = b""
        self._length_bytes: int | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answering = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport if isinstance(transport, asyncio.WriteTransport) else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        self.answering.set()
        if not self._ended.done():
            self._ended.set_exception(ConnectionBroke(str(exc or "closed by the server")))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: note the bytes and whether they end the answer."""
        self._arrivals.append((perf_counter(), data))
        if len(self._arrivals) == READS_BEFORE_LATE:
            self.answering.set()
        if not self._ended.done() and self._is_end(data):
            self._ended.set_result(None)

    async def send(self, raw: bytes) -> tuple[float, list[Arrival]]:
        """Send a request and wait for the whole answer; the clock when it was sent, and what came."""
        sent_s = perf_counter()
        if self._transport is not None:
            self._transport.write(raw)
        async with asyncio.timeout(ANSWER_S):
            await self._ended
        return sent_s, self._arrivals

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _is_end(self, data: bytes) -> bool:
        self._seen = (self._seen + data)[-len(LAST_CHUNK) :] if self._length_bytes == 0 else self._seen + data
        if self._length_bytes is None and HEAD_END in self._seen:
            head, _, _ = self._seen.partition(HEAD_END)
            content = content_length(head)
            self._length_bytes = 0 if content is None else len(head) + len(HEAD_END) + content
        if self._length_bytes:
            return len(self._seen) >= self._length_bytes
        return self._seen.endswith(LAST_CHUNK)


class Client:
    """Asks one server. Each request has a connection of its own, open before the clock starts.

    Connections are not used again: llama-server hangs up after a streamed answer.
    """

    def __init__(self, port: int, dialect: Dialect) -> None:
        self._port = port
        self._dialect = dialect

    async def ask(self, request: Request) -> Answer:
        """The answer to ``request``.

        Raises:
            NotReady: nobody listens yet, or the model is still loading.
            AnswerFailed: the server refused or broke off.
            EndedEarly: fewer tokens than asked for were generated.
        """
        return _whole(request, await self.ask_whatever_length(request))

    async def ask_whatever_length(self, request: Request) -> Answer:
        """Like :meth:`ask`, for answers that may end by themselves."""
        return await self._ask(await self._opened(), request)

    async def ask_all(self, requests: Sequence[Request]) -> list[Answer]:
        """Ask everything at once, over connections that are all open before the first request goes out."""
        connections = [await self._opened() for _ in requests]
        answers = await asyncio.gather(*map(self._ask, connections, requests))
        return list(map(_whole, requests, answers))

    async def ask_late(self, requests: Sequence[Request], late: Request) -> tuple[list[Answer], Answer]:
        """Ask for ``requests``, and for ``late`` once all of them are being answered."""
        connections = [await self._opened() for _ in requests]
        asked = asyncio.gather(*map(self._ask, connections, requests))
        last = await self._opened()
        await asyncio.gather(*(connection.answering.wait() for connection in connections))
        answers, answer = await asyncio.gather(asked, self._ask(last, late))
        return list(map(_whole, requests, answers)), _whole(late, answer)

    async def _ask(self, connection: Connection, request: Request) -> Answer:
        path, body = self._dialect.call(request)
        try:
            sent_s, arrivals = await connection.send(post(path, self._port, body))
        finally:
            connection.close()
        status, lines = read_response(arrivals)
        if status == UNAVAILABLE:
            raise NotReady("status 503")
        if status != OK:
            raise AnswerFailed(f"status {status}: {b' '.join(line for _, line in lines)[:500]!r}")
        return self._dialect.answer(sent_s, lines)

    async def _opened(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, HOST, self._port)
        except OSError as error:
            raise NotReady(str(error)) from error
        return connection


def _whole(request: Request, answer: Answer) -> Answer:
    if answer.generated_tokens < request.tokens:
        raise EndedEarly(f"{answer.generated_tokens} of {request.tokens} tokens")
    return answer


def post(path: str, port: int, body: bytes) -> bytes:
    """The bytes of a request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def content_length(head: bytes) -> int | None:
    """What the header of that name says, in bytes; None for an answer in chunks."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


def read_response(arrivals: Sequence[Arrival]) -> tuple[int, list[TimedLine]]:
    """Status and body of an answer, cut into lines, each with the time when its end arrived.

    Raises:
        AnswerFailed: it is not HTTP.
    """
    raw = b"".join(data for _, data in arrivals)
    head, end, _ = raw.partition(HEAD_END)
    status = head.split(b" ", 2)[1:2]
    if not end or not head.startswith(b"HTTP/1.1 ") or not status[0].isdigit():
        raise AnswerFailed(f"not an HTTP answer: {raw[:200]!r}")
    start = len(head) + len(end)
    if content_length(head) is not None:
        return int(status[0]), [(arrivals[-1][0], line) for line in raw[start:].splitlines()]
    return int(status[0]), _lines(arrivals, raw, start)


def _lines(arrivals: Sequence[Arrival], raw: bytes, position: int) -> list[TimedLine]:
    clock = _Clock(arrivals)
    lines: list[TimedLine] = []
    rest = b""
    while size := int(raw[position : (start := raw.index(b"\r\n", position) + 2)].split(b";")[0], 16):
        *whole, rest = (rest + raw[start : start + size]).split(b"\n")
        position = start + size + 2
        lines += [(clock.at(position), line) for line in whole]
    return lines


class _Clock:
    """When the byte in front of a position had arrived; asked for rising positions only."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self._rest = iter(arrivals)
        self._time_s, self._end = 0.0, 0

    def at(self, position: int) -> float:
        while self._end < position:
            self._time_s, data = next(self._rest)
            self._end += len(data)
        return self._time_s
