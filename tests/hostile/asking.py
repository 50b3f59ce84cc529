"""What the hostile tests share: raw requests, and a look at how the server feels meanwhile."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx

from tests.running import RunningServer


def address_of(server: RunningServer) -> tuple[str, int]:
    url = httpx.URL(server.url)
    assert url.port is not None
    return url.host, url.port


def connected(server: RunningServer) -> socket.socket:
    return socket.create_connection(address_of(server), timeout=60)


def told(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection; a reset is an end, too."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            received += piece
    return bytes(received)


def raw(server: RunningServer, request: bytes) -> bytes:
    """The whole answer to a request that the server ends the connection after."""
    with connected(server) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        return told(connection)


class Pulse:
    """The longest that ``/health`` took while it was watched."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.beats = 0


@contextlib.contextmanager
def watched(server: RunningServer) -> Iterator[Pulse]:
    """Ask ``/health`` all the time for as long as the block lasts."""
    pulse, stop = Pulse(), threading.Event()

    def watch() -> None:
        with server.client() as client:
            while not stop.is_set():
                began_s = time.monotonic()
                assert client.get("/health").status_code == 200
                pulse.longest_s = max(pulse.longest_s, time.monotonic() - began_s)
                pulse.beats += 1
                stop.wait(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield pulse
    finally:
        stop.set()
        watcher.join()
