"""The service's end of :mod:`server.chat.sandbox`: a program that renders one template, and its death."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from server.chat.sandbox import CPU_S
from server.domain.errors import InvalidRequest

WALL_S = 30.0
"""Far longer than ``CPU_S`` takes on a machine that has other things to do, too."""

REST_S = 10.0
"""After a rendering that had to be ended the template is left alone for a while: each one holds a thread."""

_SANDBOX = Path(__file__).with_name("sandbox.py")
_LENGTH_BYTES = 8
_PIECE_BYTES = 2**20
_GROWTH, _LEAST_ROOM_BYTES = 4, 2**22
"""A prompt may be so many times as long as what it is made of."""


class Refused(InvalidRequest):
    """The template raised something; the text is the template's own."""


class Overrun(InvalidRequest):
    """The template had to be stopped, or is left alone since it was."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model's chat template {reason}")


class Renderer:
    """Renders one template in a process of its own. For any thread; renderings go one after the other.

    Raises:
        Refused: ``source`` is no template.
        Overrun: compiling it came to no end.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._rests_until_s = 0.0
        self._child = self._started()

    def render(self, variables: dict[str, Any]) -> str:
        """The prompt. Raises Refused, or Overrun, as the constructor does."""
        with self._lock:
            if time.monotonic() < self._rests_until_s:
                raise Overrun(f"came to no end just now: it is tried again {REST_S:.0f} s after that")
            if self._child.has_ended():
                self._child = self._started()
            try:
                return self._child.ask(variables)
            except Overrun:
                self._rests_until_s = time.monotonic() + REST_S
                raise

    def _started(self) -> "_Child":
        child = _Child()
        child.ask(self._source)
        return child


class _Child:
    """The process. It ends with this object, or with the service."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            # Isolated: nothing in the current folder or in the environment leads to other code.
            [sys.executable, "-I", str(_SANDBOX)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        self.end = weakref.finalize(self, _end, self._process)

    def has_ended(self) -> bool:
        """Whether somebody has killed it."""
        return self._process.poll() is not None

    def ask(self, message: str | dict[str, Any]) -> str:
        """The answer to a template's source or to variables.

        Raises:
            Refused: with the template's reason.
            Overrun: the process is dead now.
        """
        asked = json.dumps(message, default=dict).encode()
        most_bytes = _GROWTH * len(asked) + _LEAST_ROOM_BYTES
        try:
            return self._asked(asked, most_bytes)
        except Overrun:
            self.end()
            raise

    def _asked(self, asked: bytes, most_bytes: int) -> str:
        self._send(len(asked).to_bytes(_LENGTH_BYTES, "big") + asked)
        deadline_s = time.monotonic() + WALL_S
        head = self._read(1 + _LENGTH_BYTES, deadline_s)
        length = int.from_bytes(head[1:], "big")
        if length > most_bytes:
            raise Overrun(f"makes {length} bytes of {len(asked)}; at most {most_bytes} are taken")
        told = self._read(length, deadline_s)
        try:
            text = told.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise Overrun("broke its interpreter") from error
        if head[:1] == b"-":
            raise Refused(text)
        return text

    def _send(self, data: bytes) -> None:
        # It reads all of this before it does anything else, so that writing does not wait for long.
        with contextlib.suppress(BrokenPipeError), memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += os.write(_number(self._process.stdin), view[sent : sent + _PIECE_BYTES])

    def _read(self, length: int, deadline_s: float) -> bytes:
        read = bytearray()
        output = _number(self._process.stdout)
        poll = select.poll()
        poll.register(output, select.POLLIN)
        while len(read) < length:
            left_ms = (deadline_s - time.monotonic()) * 1000
            if left_ms <= 0 or not poll.poll(left_ms):
                raise Overrun(f"did not come to an end within {WALL_S:.0f} s, and was stopped")
            piece = os.read(output, min(length - len(read), _PIECE_BYTES))
            if not piece:
                raise Overrun(f"took more than {CPU_S} s of a processor, or broke its interpreter")
            read += piece
        return bytes(read)


def _number(pipe: Any) -> int:
    return int(pipe.fileno())


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    with process:
        process.wait()
