"""llama.cpp's rpc servers as they are asked before anything is entrusted to them, and the wires to them.

ggml itself waits for ever for a server that does not answer, and ends the process where one speaks another
version. So each is asked over a connection of our own first, with timeouts. A server talks to one client at
a time, and to the next one when that has gone.
"""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from server.domain.errors import ModelLoadFailed

PROTOCOL = (7, 0)
"""Of the locked binding; a server of another major version, or of a newer minor one, is of no use to it."""

CONNECT_S, ANSWER_S = 3.0, 5.0

SILENCE_S = 20
"""So long the kernel waits for a host that no longer acknowledges anything; then the connection is broken."""

_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11
_CAPABILITIES_BYTES = 24
_CLOSED = b"\x07"
"""TCP_CLOSE of the kernel, at the beginning of TCP_INFO: no goodbye was said."""

_KEEPALIVE_IDLE_S, _KEEPALIVE_PAUSE_S, _KEEPALIVE_TIMES = 5, 5, 3


@dataclass(frozen=True, slots=True)
class RpcDevice:
    """A device behind an rpc server. One that computes on the CPU calls all of its host's memory free."""

    free_bytes: int
    total_bytes: int


class Unreachable(ModelLoadFailed):
    """An rpc server does not do what it should; the text says which, why and what helps."""


def resolve(device: str, host: str, port: int) -> tuple[str, ...]:
    """The IPv4 addresses of a host. ``device`` is how the settings call it.

    Raises:
        Unreachable: it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"{device} cannot be found: {error.strerror or error}") from None
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def ask(device: str, address: str, port: int) -> tuple[RpcDevice, ...]:
    """What the server there has; blocks for some seconds at most.

    Raises:
        Unreachable: nobody is there, or nobody who answers, or it speaks another version.
    """
    remedy = f"start ggml-rpc-server there ({port} is its --port), and see docs/rpc.md"
    try:
        wire = socket.create_connection((address, port), CONNECT_S)
    except OSError as error:
        raise Unreachable(f"{device} cannot be reached: {_in_words(error)}; {remedy}") from None
    with wire:
        wire.settimeout(ANSWER_S)
        try:
            version = _call(wire, _HELLO, bytes(_CAPABILITIES_BYTES), f"BBBx{_CAPABILITIES_BYTES}x")
            _refuse_other_version(device, version)
            (count,) = _call(wire, _DEVICE_COUNT, b"", "<I")
            numbers = (struct.pack("<I", number) for number in range(count))
            return tuple(RpcDevice(*_call(wire, _DEVICE_MEMORY, number, "<QQ")) for number in numbers)
        except TimeoutError:
            raise Unreachable(
                f"{device} takes connections but does not answer: it may be stopped, or serve another "
                "client, for it serves one at a time. Start it again, or a second one on another port"
            ) from None
        except (OSError, struct.error) as error:
            raise Unreachable(
                f"{device} does not answer as an rpc server: {_in_words(error)}; {remedy}"
            ) from None


class Wires:
    """This process' connections to a server, seen beside ggml, which alone talks over them.

    The kernel is told to break them once the host is silent for ``SILENCE_S``: ggml would wait for ever. They
    are only closed when :meth:`close` was called, too.
    """

    def __init__(self, address: str, port: int) -> None:
        self._wires = tuple(_connections(address, port))
        for wire in self._wires:
            _do_not_wait_for_ever(wire)

    def __len__(self) -> int:
        return len(self._wires)

    def broken(self) -> str | None:
        """Why one of them is of no use any more; None where nothing is known to be wrong."""
        reasons = map(_reason, self._wires)
        return next((reason for reason in reasons if reason is not None), None)

    def close(self) -> None:
        """Let go of them."""
        for wire in self._wires:
            wire.close()
        self._wires = ()


def _connections(address: str, port: int) -> Iterator[socket.socket]:
    """Duplicates of those that lead there; none where the system does not list a process' files."""
    folder = Path("/proc/self/fd")
    known: set[int] = set()
    for name in os.listdir(folder) if folder.is_dir() else ():  # noqa: PTH208
        try:
            if not stat.S_ISSOCK((found := os.fstat(int(name))).st_mode) or found.st_ino in known:
                continue
            known.add(found.st_ino)
            wire = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            # It was closed meanwhile.
            continue
        if _leads_to(wire, address, port):
            yield wire
        else:
            wire.close()


def _do_not_wait_for_ever(wire: socket.socket) -> None:
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_PAUSE_S),
        ("TCP_KEEPCNT", _KEEPALIVE_TIMES),
        ("TCP_USER_TIMEOUT", SILENCE_S * 1000),
    ):
        if hasattr(socket, name):
            wire.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _leads_to(wire: socket.socket, address: str, port: int) -> bool:
    if wire.family != socket.AF_INET:
        return False
    try:
        return bool(wire.getpeername() == (address, port))
    except OSError:
        # It only listens.
        return False


def _reason(wire: socket.socket) -> str | None:
    """A look at what has come, which leaves it there."""
    try:
        seen = wire.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        return _in_words(error)
    if seen:
        return None
    state = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) if hasattr(socket, "TCP_INFO") else b""
    return "the connection broke" if state == _CLOSED else "it has closed the connection"


def _refuse_other_version(device: str, version: tuple[int, ...]) -> None:
    major, minor = PROTOCOL
    if version[0] != major or version[1] > minor:
        raise Unreachable(
            f"{device} speaks version {'.'.join(map(str, version))} of the rpc protocol, and this "
            f"llama-cpp-python {major}.{minor}; build the server from the same release: make rpc-server"
        )


def _call(wire: socket.socket, command: int, content: bytes, answer: str) -> tuple[int, ...]:
    """One question and its answer, which is as ``struct`` knows it."""
    wire.sendall(struct.pack("<BQ", command, len(content)) + content)
    (size,) = struct.unpack("<Q", _exactly(wire, 8))
    if size != struct.calcsize(answer):
        raise struct.error(f"an answer of {size} bytes")
    found: tuple[int, ...] = struct.unpack(answer, _exactly(wire, size))
    return found


def _exactly(wire: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        part = wire.recv(size - len(got))
        if not part:
            raise ConnectionError("it closed the connection")
        got += part
    return bytes(got)


def _in_words(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text[:1].lower() + text[1:]
