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

Arrival = tuple[float, bytes]
"""Bytes as they came off the socket, and the clock in seconds."""


class NotReady(Exception):
    """The server does not answer yet."""


class ConnectionBroke(AnswerFailed):
    """The server hung up in the middle of an answer, or before it."""


class Connection(asyncio.Protocol):
    """One kept-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._arrivals: list[Arrival] = []
        self._seen = b""
        self._length_bytes: int | None = None
        self._ended: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport if isinstance(transport, asyncio.WriteTransport) else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        if self._ended and not self._ended.done():
            self._ended.set_exception(ConnectionBroke(str(exc or "closed by the server")))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: note the bytes and whether they end the answer."""
        self._arrivals.append((perf_counter(), data))
        if self._ended and not self._ended.done() and self._is_end(data):
            self._ended.set_result(None)

    async def send(self, raw: bytes) -> tuple[float, list[Arrival]]:
        """Send a request and wait for the whole answer; the clock when it was sent, and what came."""
        if self._transport is None:
            raise NotReady("the connection is closed")
        self._arrivals, self._seen, self._length_bytes = [], b"", None
        self._ended = asyncio.get_running_loop().create_future()
        sent_s = perf_counter()
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
    """Asks one server; keeps its connections alive as long as the server does."""

    def __init__(self, port: int, dialect: Dialect) -> None:
        self._port = port
        self._dialect = dialect
        self._idle: list[Connection] = []

    async def ask(self, request: Request) -> Answer:
        """The answer to ``request``, the clock started when it is sent over an open connection.

        Raises:
            NotReady: nobody listens yet, or the model is still loading.
            AnswerFailed: the server refused or broke off.
            EndedEarly: fewer tokens than asked for were generated.
        """
        answer = await self.ask_whatever_length(request)
        if answer.generated_tokens < request.tokens:
            raise EndedEarly(f"{answer.generated_tokens} of {request.tokens} tokens")
        return answer

    async def ask_whatever_length(self, request: Request) -> Answer:
        """Like :meth:`ask`, for answers that may end by themselves."""
        body = self._dialect.body(request)
        connection = await self._connection()
        sent_s, arrivals = await connection.send(post(self._dialect.path, self._port, body))
        if stays_open(arrivals):
            self._idle.append(connection)
        else:
            connection.close()
        status, lines = read_response(arrivals)
        if status == UNAVAILABLE:
            raise NotReady("status 503")
        if status != OK:
            raise AnswerFailed(f"status {status}: {b' '.join(line for _, line in lines)[:500]!r}")
        return self._dialect.answer(sent_s, lines)

    async def ask_all(self, requests: Sequence[Request]) -> list[Answer]:
        """Ask everything at once, over connections that are open before the first request goes out."""
        self._idle += [await self._opened() for _ in range(len(requests) - len(self._idle))]
        return await asyncio.gather(*(self.ask(request) for request in requests))

    def close(self) -> None:
        """Hang up everywhere."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connection(self) -> Connection:
        while self._idle:
            if (connection := self._idle.pop()).usable:
                return connection
        return await self._opened()

    async def _opened(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, HOST, self._port)
        except OSError as error:
            raise NotReady(str(error)) from error
        return connection


def post(path: str, port: int, body: bytes) -> bytes:
    """The bytes of a request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def content_length(head: bytes) -> int | None:
    """What the header of that name says, in bytes; None for an answer in chunks."""
    value = header(head, b"content-length")
    return None if value is None else int(value)


def stays_open(arrivals: Sequence[Arrival]) -> bool:
    """Whether the server takes another request over the connection that this answer came from."""
    head, _, _ = b"".join(data for _, data in arrivals).partition(HEAD_END)
    return (header(head, b"connection") or b"").lower() != b"close"


def header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header, without the spaces around it."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip()
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
