"""Rpc servers on free ports of the loopback interface, each a process of its own."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.running import PROJECT

START_S = 30


class Host:
    """A machine with an rpc server on it, as far as a test needs one. ``program`` is another server than
    that of the installed binding: it is given --host, --port and --threads."""

    def __init__(self, program: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def device(self) -> str:
        """As the settings name it."""
        return f"rpc://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> str:
        """As ggml names it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        self._process = subprocess.Popen(self._command(), cwd=PROJECT, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not _listens(self.port):
            assert self._process.poll() is None, "the rpc server did not start"
            assert time.monotonic() < deadline, "the rpc server does not listen"
            time.sleep(0.05)

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, as a power failure would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _command(self) -> Sequence[str]:
        if self._program is None:
            return (sys.executable, "-m", "tests.rpc.host", self.endpoint)
        return (str(self._program), "--host", "127.0.0.1", "--port", str(self.port), "--threads", "1")


@contextlib.contextmanager
def hosts(count: int, program: Path | None = None) -> Iterator[list[Host]]:
    """So many of them, until the block ends."""
    started: list[Host] = []
    try:
        for _ in range(count):
            started.append(Host(program))
        yield started
    finally:
        for host in started:
            host.send(signal.SIGCONT)
            host.kill()


def _listens(port: int) -> bool:
    """Without connecting: the server would take that for a client."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    return wanted in Path("/proc/net/tcp").read_text()
