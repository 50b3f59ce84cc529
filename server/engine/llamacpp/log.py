"""llama.cpp's log: all of it goes to ours, and its complaints also to whoever listens on that thread."""

import contextlib
import ctypes
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import llama_cpp.llama_cpp as native

logger = logging.getLogger("llama.cpp")

_LOG_ERROR = 4
"""GGML_LOG_LEVEL_ERROR of ggml.h."""


class NativeLog:
    """Takes over what llama.cpp writes, for the life of the process."""

    def __init__(self) -> None:
        self._complaints: dict[int, deque[str]] = {}
        self._heard: dict[int, list[str]] = {}
        self._divert()

    def listen(self) -> deque[str]:
        """Collect what llama.cpp complains about on this thread from now on."""
        complaints: deque[str] = deque(maxlen=8)
        self._complaints[threading.get_ident()] = complaints
        return complaints

    @contextlib.contextmanager
    def hearing(self) -> Iterator[list[str]]:
        """All that llama.cpp writes on this thread meanwhile."""
        thread = threading.get_ident()
        self._heard[thread] = []
        try:
            yield self._heard[thread]
        finally:
            del self._heard[thread]

    def _divert(self) -> None:
        @native.llama_log_callback  # type: ignore[untyped-decorator]
        def receive(level: int, text: bytes, _data: int) -> None:
            line = text.decode("utf-8", "replace").strip()
            if not line.strip("."):
                return
            if level == _LOG_ERROR and threading.get_ident() in self._complaints:
                self._complaints[threading.get_ident()].append(line)
            if threading.get_ident() in self._heard:
                self._heard[threading.get_ident()].append(line)
            logger.debug("%s", line)

        # The C side keeps a bare pointer for the life of the process, so the callback must not die.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(receive))
        native.llama_log_set(receive, ctypes.c_void_p(0))


def reason(complaints: Sequence[str]) -> str:
    """``complaints`` as the end of an error's text."""
    return "; ".join(complaints) or "llama.cpp gave no reason"
