"""What the service says to systemd and takes from it, over real sockets and descriptors."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.systemd import Notifier, inherited_sockets, watchdog_s
from tests.running import PROJECT

TAKING_OVER = """
import os, sys
from server.systemd import NotOurs, inherited_sockets
os.dup2(int(sys.argv[1]), 3)
try:
    sockets = inherited_sockets({"LISTEN_FDS": sys.argv[2], "LISTEN_PID": str(os.getpid())}, os.getpid())
    print(sockets[0].getsockname()[1], os.get_inheritable(3))
except NotOurs as error:
    print(error)
"""


@contextlib.contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """systemd's end of the notify socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(5)
        yield listening


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_messages_reach_the_manager(kind: str, tmp_path: Path) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@llm-optimizer-{secrets.token_hex(8)}"
    with manager(address) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": address})
        before_usec = time.monotonic_ns() // 1000
        notifier.status("Loading qwen3:1.7b (42%)")
        notifier.status("Loading qwen3:1.7b (42%)")
        notifier.more_time(120)
        notifier.ready()
        notifier.alive()
        notifier.reloading()
        notifier.stopping(55)
        messages = [listening.recv(1000).decode() for _ in range(6)]
    assert messages[:4] == [
        "STATUS=Loading qwen3:1.7b (42%)",
        "EXTEND_TIMEOUT_USEC=120000000",
        "READY=1",
        "WATCHDOG=1",
    ]
    reloading, monotonic = messages[4].split("\n")
    assert reloading == "RELOADING=1"
    assert before_usec <= int(monotonic.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert messages[5] == "STOPPING=1\nEXTEND_TIMEOUT_USEC=55000000"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_manager_nothing_happens(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    Notifier(environ).ready()
    assert caplog.records == []


def test_a_manager_that_does_not_listen_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready()
    notifier.alive()
    [record] = caplog.records
    assert "NOTIFY_SOCKET" in record.getMessage()


def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with manager(address):
        notifier = Notifier({"NOTIFY_SOCKET": address})
        started_s = time.monotonic()
        for _ in range(2000):
            notifier.alive()
        assert time.monotonic() - started_s < 5


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "77"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_wish(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_s(environ, 77) == seconds


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "78"},
        {"LISTEN_FDS": "many", "LISTEN_PID": "77"},
        {"LISTEN_FDS": "0", "LISTEN_PID": "77"},
    ],
)
def test_sockets_for_somebody_else_are_left_alone(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ, 77) == []


def taken_over(descriptor: int, count: int = 1) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TAKING_OVER, str(descriptor), str(count)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_listening_socket_is_taken_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert taken_over(listener.fileno()) == f"{port} False"


def test_what_cannot_be_served_on_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        assert taken_over(local.fileno()) == "its descriptor 3 is no listening TCP socket; see ListenStream="
    with socket.socket() as silent:
        assert "no listening TCP socket" in taken_over(silent.fileno())
    with (tmp_path / "file").open("w") as file:
        assert "descriptor 3 cannot be used" in taken_over(file.fileno())
