"""Clients that are slow, silent, deaf, or thousands: they are let go, and nobody else notices."""

import contextlib
import http
import http.client
import resource
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.api import connections as limits
from server.api.connections import connections, room_for_connections
from server.sockets import listening
from tests.hostile.asking import address_of, connected, raw, told, watched
from tests.running import RunningServer

HEAD = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
ASK = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n"
BYE = b"Connection: close\r\n\r\n"


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer.split()[1])


STRANGE = {
    "long header": (ASK + b"X: " + b"x" * 100_000 + b"\r\n" + BYE, 431),
    "many headers": (ASK + b"X: y\r\n" * 200 + BYE, 431),
    "long path": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n" + BYE, 431),
    "100 headers": (ASK + b"X: y\r\n" * 100 + BYE, 200),
    "version": (b"GET / HTTP/9.9\r\n" + BYE, 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300), 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "header name": (ASK + b"A b: c\r\n" + BYE, 400),
    "zero in header": (ASK + b"A: b\x00c\r\n" + BYE, 400),
    "two lengths": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + BYE + b"0\r\n\r\n", 400),
    "negative length": (HEAD + b"Content-Length: -5\r\n" + BYE, 400),
    "lengths differ": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n" + BYE + b"hello!", 400),
    "huge chunk": (HEAD + b"Transfer-Encoding: chunked\r\n" + BYE + b"ffffffffffffffffff\r\n", 400),
    "no chunk": (HEAD + b"Transfer-Encoding: chunked\r\n" + BYE + b"hello\r\n", 400),
    "websocket": (ASK + b"Upgrade: websocket\r\n" + BYE, 200),
    "connect": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n" + BYE, 400),
    "proxy": (b"GET http://example.org/api/version HTTP/1.1\r\nHost: localhost\r\n" + BYE, 200),
}


@pytest.mark.parametrize(("request_bytes", "status"), STRANGE.values(), ids=STRANGE.keys())
def test_strange_requests(server: RunningServer, request_bytes: bytes, status: int) -> None:
    assert status_of(raw(server, request_bytes)) == status


class SmallServer:
    """An application of three routes behind connections of ours, of which there may be five."""

    def __init__(self) -> None:
        self._listener = listening("127.0.0.1", 0)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        config = uvicorn.Config(
            application,
            http=connections(5),
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=30,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()

    def stop(self) -> None:
        self._server.force_exit = self._server.should_exit = True
        self._thread.join()

    def connected(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=20)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    answers = {"/": _hello, "/body": _length, "/flood": _flood}
    await (await answers[scope["path"]](Request(scope, receive)))(scope, receive, send)


async def _hello(_: Request) -> Response:
    return PlainTextResponse("hello")


async def _length(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def _flood(_: Request) -> Response:
    return StreamingResponse(iter([b"x" * 65_536] * 1000))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallServer]:
    """Impatient: what takes half a minute elsewhere takes it half a second."""
    for name, value in (
        ("HEADERS_S", 0.5),
        ("SILENT_S", 0.5),
        ("GRACE_S", 0.8),
        ("UNHEARD_S", 0.5),
        ("LOOK_S", 0.05),
    ):
        monkeypatch.setattr(limits, name, value)
    running = SmallServer()
    try:
        yield running
    finally:
        running.stop()


def ended_after_s(connection: socket.socket) -> tuple[float, bytes]:
    began_s = time.monotonic()
    answer = told(connection)
    return time.monotonic() - began_s, answer


def test_an_idle_connection_outlasts_its_client() -> None:
    """Go's clients give theirs up after 90 s, httpx and aiohttp after 5 and 15 s."""
    assert limits.IDLE_S > 90


@pytest.mark.slow
def test_a_connection_may_be_idle_for_longer_than_uvicorn_allows(server: RunningServer) -> None:
    with contextlib.closing(http.client.HTTPConnection(*address_of(server), timeout=60)) as connection:
        for pause_s in (0, 7):
            time.sleep(pause_s)
            connection.request("GET", "/api/version")
            assert b"version" in connection.getresponse().read()


def test_who_says_nothing_is_let_go(small: SmallServer) -> None:
    with small.connected() as connection:
        took_s, answer = ended_after_s(connection)
    assert 0.3 < took_s < 10
    assert answer == b""


def test_headers_must_come_in_time(small: SmallServer) -> None:
    """A byte now and then does not help."""
    with small.connected() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(30):
                connection.sendall(b"X: y\r\n")
                time.sleep(0.05)
        assert status_of(told(connection)) == http.HTTPStatus.REQUEST_TIMEOUT


def test_empty_lines_are_no_request(small: SmallServer) -> None:
    with small.connected() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536).endswith(b"hello")
        began_s = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - began_s < 10:
                connection.sendall(b"\r\n")
                time.sleep(0.05)
        assert time.monotonic() - began_s < 9


def test_a_body_must_go_on(small: SmallServer) -> None:
    with small.connected() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome")
        took_s, answer = ended_after_s(connection)
    assert took_s < 10
    assert status_of(answer) == http.HTTPStatus.REQUEST_TIMEOUT


def test_a_body_must_get_on(small: SmallServer) -> None:
    """Never silent for long, and far too slow for all that."""
    with small.connected() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
        began_s = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - began_s < 10:
                connection.sendall(b"x")
                time.sleep(0.05)
    assert time.monotonic() - began_s < 9


def test_a_slow_but_honest_body_arrives(small: SmallServer) -> None:
    with small.connected() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n" + BYE)
        for _ in range(20):
            connection.sendall(b"x" * 2000)
            time.sleep(0.08)
        assert told(connection).endswith(b"40000")


def test_who_does_not_take_its_answer_is_let_go(small: SmallServer) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(small.address)
        connection.sendall(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1.5)
        assert len(told(connection)) < 60_000_000


def test_two_requests_at_once_are_answered_one_after_the_other(small: SmallServer) -> None:
    with small.connected() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n" + BYE)
        assert told(connection).count(b"hello") == 2


def test_the_longest_idle_gives_way(small: SmallServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADERS_S", 60)
    with contextlib.ExitStack() as opened:
        idle = [opened.enter_context(small.connected()) for _ in range(5)]
        for _ in range(5):
            with small.connected() as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + BYE)
                assert told(connection).endswith(b"hello")
        assert told(idle[0]) == b""


def test_whoever_is_answered_stays(small: SmallServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SILENT_S", 60)
    monkeypatch.setattr(limits, "GRACE_S", 60)
    with contextlib.ExitStack() as opened:
        busy = [opened.enter_context(small.connected()) for _ in range(5)]
        for connection in busy:
            connection.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n" + BYE)
        time.sleep(0.3)
        with small.connected() as late:
            assert told(late) == b""
        for connection in busy:
            connection.sendall(b"four")
            assert told(connection).endswith(b"4")


def test_the_limit_of_open_files_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: set_to.append(pair))
    for soft, hard, raised, room in (
        (1024, 524_288, 65_536, limits.MOST_CONNECTIONS),
        (1024, 1024, None, 768),
        (256, 4096, 4096, 3840),
        (100, 100, None, 50),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, limits.MOST_CONNECTIONS),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, pair=(soft, hard): pair)
        set_to.clear()
        assert room_for_connections() == room
        assert set_to == ([] if raised is None else [(raised, hard)])


def test_a_pile_of_idle_connections_is_in_nobodys_way(server: RunningServer) -> None:
    with contextlib.ExitStack() as opened, watched(server) as pulse:
        for _ in range(300):
            opened.enter_context(connected(server))
        time.sleep(0.5)
    assert pulse.beats > 5
    assert pulse.longest_s < 2


@pytest.mark.slow
def test_thousands_of_idle_connections_are_in_nobodys_way(server: RunningServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384), hard))
    try:
        with contextlib.ExitStack() as opened, watched(server) as pulse:
            for _ in range(6000):
                opened.enter_context(connected(server))
            time.sleep(25)
        assert pulse.longest_s < 2
        assert httpx.get(f"{server.url}/api/version").status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_slow_clients_are_let_go_by_the_real_server(server: RunningServer) -> None:
    with contextlib.ExitStack() as opened, watched(server) as pulse:
        slow = [opened.enter_context(connected(server)) for _ in range(200)]
        for connection in slow[:100]:
            connection.sendall(HEAD + b"X: y\r\n")
        for connection in slow[100:]:
            connection.sendall(HEAD + b'Content-Length: 5000\r\n\r\n{"model":')
        answers = [told(connection) for connection in slow]
    assert {status_of(answer) for answer in answers} == {408}
    assert pulse.longest_s < 2


def test_a_client_that_vanishes_in_the_middle_of_a_header(server: RunningServer) -> None:
    with socket.create_connection(address_of(server)) as connection:
        connection.sendall(ASK + b"X-Half")
    assert status_of(raw(server, ASK + BYE)) == 200
