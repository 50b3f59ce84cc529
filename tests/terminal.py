"""A terminal with somebody in front of it: what they type, and what they see."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from tests.running import PROJECT

PATIENCE_S = 60.0
SPINNER_ENDS = r"\x1b\[\?25h"
"""The cursor is shown again."""

_SHOWN = 500


class Terminal:
    """``seen`` is everything that was shown, with all control sequences."""

    def __init__(self, process: "subprocess.Popen[bytes]", controller: int) -> None:
        self.seen = ""
        self._process = process
        self._controller = controller
        self._read_to = 0

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def press_ctrl_c(self) -> None:
        self.type("\x03")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match behind the last one that was waited for."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            if found := re.compile(pattern).search(self.seen, self._read_to):
                self._read_to = found.end()
                return found
            assert self._look(deadline), f"{pattern!r} did not come: {self.seen[self._read_to :][-_SHOWN:]!r}"

    def end(self) -> int:
        """The exit code, once it has ended by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while self._look(deadline):
            pass
        return self._process.wait(timeout=PATIENCE_S)

    def _look(self, deadline: float) -> bool:
        """Read what there is; False: nothing came until then, or nothing will come any more."""
        ready, _, _ = select.select([self._controller], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            read = os.read(self._controller, 65_536)
        except OSError:  # how Linux tells that nobody holds the other end
            return False
        self.seen += read.decode(errors="replace")
        return bool(read)


@contextlib.contextmanager
def terminal(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """``llm-optimizer`` with these arguments on a terminal of its own, 100 columns wide."""
    controller, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "server", *arguments],
        cwd=PROJECT,
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
        # Only a terminal that a process controls sends it Ctrl-C.
        preexec_fn=lambda: _take(0),  # noqa: PLW1509
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    )
    os.close(side)
    try:
        yield Terminal(process, controller)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(controller)


def _take(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
