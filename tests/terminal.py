"""A terminal with somebody in front of it: what they type, and what they see."""

import codecs
import contextlib
import os
import pty
import re
import select
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
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

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
        while self._process.poll() is None and time.monotonic() < deadline:
            self._look(time.monotonic() + 0.05)
        while self._look(0):
            pass
        return self._process.wait(timeout=0)

    def _look(self, deadline: float) -> bool:
        """Read what there is; False: nothing came until then."""
        ready, _, _ = select.select([self._controller], [], [], max(0.0, deadline - time.monotonic()))
        if ready:
            self.seen += self._decoder.decode(os.read(self._controller, 65_536))
        return bool(ready)


@contextlib.contextmanager
def terminal(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """``llm-optimizer`` with these arguments on a terminal of its own, 100 columns wide."""
    controller, side = pty.openpty()
    process = subprocess.Popen(
        # Only the terminal that a session opens first sends it Ctrl-C: so the shell opens it.
        [
            "sh",
            "-c",
            'exec "$@" <"$0" >"$0" 2>&1',
            os.ttyname(side),
            sys.executable,
            "-m",
            "server",
            *arguments,
        ],
        cwd=PROJECT,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    )
    try:
        yield Terminal(process, controller)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        # Held until now: reading fails while nobody holds the other end.
        os.close(side)
        os.close(controller)
