"""Connections of clients that are slow, idle, or very many: they take nothing from the others.

uvicorn waits for ever for a request that has begun, reads headers of any size, and takes any number of
connections. Here each part of a request must come in time, and where there are too many connections the one
that has been without a request for longest gives way.
"""

import asyncio
import contextlib
import http
import resource
from collections.abc import MutableMapping
from enum import Enum, auto
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 20.0
"""From the connection, or the first byte of a request, to the end of its headers."""

SILENT_S = 30.0
"""Without a byte of a body that is not there yet."""

GRACE_S, LEAST_BYTES_PER_S = 30.0, 1024
"""A body that takes longer than this must come at such a pace on average."""

UNHEARD_S = 120.0
"""Without the client taking a byte of its answer."""

MOST_HEADERS, MOST_HEADER_BYTES = 128, 65_536

LOOK_S = 5.0

IDLE_S = 120
"""Between two requests of a connection. Clients keep one that they do not use for less (httpx 5 s, Go 90 s):
where both sides give it up after the same time, a request that is on its way just then is lost."""

MOST_CONNECTIONS = 4096
_MOST_FILES = 65_536
_OWN_FILES = 256
"""Models, cards, caches, downloads, uploads."""

_LAST_WORDS = b"HTTP/1.1 %d %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _Phase(Enum):
    """What a connection waits for."""

    HEADERS = auto()
    BODY = auto()
    ANSWER = auto()
    NEXT = auto()


class _TooLarge(Exception):
    """Headers are too many or too long."""


def room_for_connections() -> int:
    """How many there may be. Raises this process's limit of open files as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # A unit that forbids this has its own limit.
        with contextlib.suppress(OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(soft - _OWN_FILES, soft // 2))


def connections(most: int) -> type[HttpToolsProtocol]:
    """A kind of connection for uvicorn, of which there are ``most`` at the same time."""
    # In the order in which they began to wait for a request.
    waiting: dict[Connection, None] = {}

    class Limited(Connection):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(most, waiting, *args, **named)

    return Limited


class Connection(HttpToolsProtocol):
    """One connection. ``waiting`` are those of all that have no request."""

    def __init__(
        self, most: int, waiting: MutableMapping["Connection", None], *args: Any, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._most = most
        self._waiting = waiting
        self._phase = _Phase.HEADERS
        self._since_s = self._heard_s = self.loop.time()
        self._phase_bytes = self._header_bytes = 0
        self._unheard_since_s: float | None = None
        self._fault = http.HTTPStatus.BAD_REQUEST
        self._looking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room where there is none, and begin to look at the time."""
        super().connection_made(transport)
        self._waiting[self] = None
        self._looking = self.loop.call_later(LOOK_S, self._look)
        if len(self.connections) > self._most:
            next(iter(self._waiting)).give_up(http.HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._waiting.pop(self, None)
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request, or of several."""
        self._heard_s = self.loop.time()
        if self._phase is _Phase.NEXT:
            self._enter(_Phase.HEADERS)
        if self._phase is _Phase.HEADERS:
            self._phase_bytes += len(data)
        super().data_received(data)
        # A header that has no end is told to nobody.
        if self._phase is _Phase.HEADERS and self._phase_bytes > MOST_HEADER_BYTES:
            self.give_up(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._header_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if len(self.headers) > MOST_HEADERS or self._header_bytes > MOST_HEADER_BYTES:
            self._fault = http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _TooLarge

    def on_headers_complete(self) -> None:
        """A request begins."""
        self._enter(_Phase.BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._phase_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._enter(_Phase.ANSWER)
        super().on_message_complete()
        if self.cycle.response_complete:
            self._enter(_Phase.NEXT)

    def on_response_complete(self) -> None:
        """Its answer is written."""
        super().on_response_complete()
        if self._phase is _Phase.ANSWER and self.cycle.response_complete:
            self._enter(_Phase.NEXT)

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than it comes."""
        self._unheard_since_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It has taken some."""
        self._unheard_since_s = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What the parser cannot read ends the connection."""
        self.give_up(self._fault)

    def give_up(self, status: http.HTTPStatus) -> None:
        """End the connection, with a word where the client waits for one."""
        self._waiting.pop(self, None)
        if self.transport.is_closing():
            return
        if not self._is_free_to_speak():
            self.transport.abort()
            return
        if self._phase_bytes:
            self.transport.write(_LAST_WORDS % (status, status.phrase.encode()))
        self.transport.close()

    def _is_free_to_speak(self) -> bool:
        """Whether nothing has been said to the last request, nor is about to be."""
        if self.pipeline or self._phase is _Phase.ANSWER:
            return False
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self._phase is _Phase.BODY and not self.cycle.response_started

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        # Who has sent its headers waits for an answer.
        self._phase_bytes = 1 if phase is _Phase.BODY else 0
        self._since_s = self.loop.time()
        if phase in (_Phase.NEXT, _Phase.BODY):
            self._waiting.pop(self, None)
        if phase is _Phase.NEXT and not self.transport.is_closing():
            self._waiting[self] = None

    def _look(self) -> None:
        now_s = self.loop.time()
        if self.flow.read_paused:
            # It is the server that does not read.
            self._heard_s = now_s
            self._since_s += LOOK_S
        if self._is_late(now_s):
            self.give_up(http.HTTPStatus.REQUEST_TIMEOUT)
            return
        self._looking = self.loop.call_later(LOOK_S, self._look)

    def _is_late(self, now_s: float) -> bool:
        if self._unheard_since_s is not None and now_s - self._unheard_since_s > UNHEARD_S:
            return True
        took_s = now_s - self._since_s
        if self._phase is _Phase.HEADERS:
            return took_s > HEADERS_S
        if self._phase is _Phase.BODY:
            slow = took_s > GRACE_S and self._phase_bytes < (took_s - GRACE_S) * LEAST_BYTES_PER_S
            return slow or now_s - self._heard_s > SILENT_S
        return False
