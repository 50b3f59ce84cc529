"""What systemd hands to a service, and what it wants to hear: sd_notify(3), sd_listen_fds(3).

No library: both protocols are a few lines, and libsystemd's bindings need its headers to be built.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger("llm-optimizer")

_FIRST_DESCRIPTOR = 3


class NotOurs(Exception):
    """What systemd handed over cannot be served on; the text says why."""


class Notifier:
    """Tells the service manager how the service is. Where there is none, nothing happens."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._complained = False
        self._last_status = ""

    def ready(self) -> None:
        """The service is up, for the first time or after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Settings are being read again; :meth:`ready` says when that is over."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, patience_s: float) -> None:
        """The service ends, and may need so long for it."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(patience_s * 1e6)}")

    def more_time(self, seconds: float) -> None:
        """The start goes on, and may take so much longer."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def alive(self) -> None:
        """The service gets on with its work."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for people; the same one is not sent twice."""
        if text != self._last_status:
            self._last_status = text
            self._send(f"STATUS={text}")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                # The event loop calls this: a manager that does not read must not hold it up.
                sending.setblocking(False)
                sending.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("systemd cannot be told how the service is: NOTIFY_SOCKET: %s", error)


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """After how long a silence systemd ends the service; None: it does not watch."""
    told = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", "")
    if not told.isdecimal() or int(told) == 0 or (meant_for and meant_for != str(pid)):
        return None
    return int(told) / 1e6


def inherited_sockets(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """The listening sockets of a socket unit; none where the service was started without one.

    Raises:
        NotOurs: one of them is no listening TCP socket.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal():
        return []
    with contextlib.ExitStack() as taken:
        sockets = [
            taken.enter_context(_listener(number))
            for number in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
        ]
        taken.pop_all()
    return sockets


def _listener(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise NotOurs(f"its descriptor {descriptor} cannot be used: {error.strerror}") from error
    is_tcp = listener.family in (socket.AF_INET, socket.AF_INET6) and listener.type == socket.SOCK_STREAM
    if not is_tcp or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        with listener:
            raise NotOurs(f"its descriptor {descriptor} is no listening TCP socket; see ListenStream=")
    return listener


def _address(path: str) -> str | bytes | None:
    """As the kernel wants it: a name that begins with @ is an abstract one."""
    if path.startswith("@"):
        return b"\0" + os.fsencode(path[1:])
    return path if path.startswith("/") else None
