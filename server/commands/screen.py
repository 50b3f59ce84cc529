"""An answer as it comes, on a terminal or into a pipe."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from server.client.answers import Piece

if TYPE_CHECKING:
    from rich.console import Console

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tabs and line feeds: what a model says, or its file, must not move the cursor, nor worse."""


class Screen:
    """Words go to the output. Thinking goes to the terminal, dim, or else to the errors, so that a pipe gets
    words only."""

    def __init__(self, out: "Console", errors: "Console", *, show_thinking: bool) -> None:
        self.show_thinking = show_thinking
        self._out = out
        self._errors = errors
        self._thinks = False
        self._last = "\n"

    def show(self, pieces: Iterable[Piece], waiting_for: str) -> None:
        """Print them while they come; a terminal shows a sign of life until the first one."""
        status = self._out.status(waiting_for, spinner_style="dim")
        try:
            # Not "with": Ctrl-C may come while it starts.
            status.start()
            for piece in pieces:
                if piece.words or self.show_thinking:
                    status.stop()
                self._print(piece)
        finally:
            status.stop()
            self._end()

    def _end(self) -> None:
        """What comes next begins on a line of its own."""
        self._end_thinking()
        if self._last != "\n":
            self._write("\n")

    def note(self, text: str) -> None:
        """Something about the answer, which is not of it."""
        self._errors.print(text, style="dim", markup=False, soft_wrap=True)

    def _print(self, piece: Piece) -> None:
        if piece.thinking and self.show_thinking:
            if not self._thinks:
                self._thinks = True
                self.note("Thinking ...")
            self._think(piece.thinking)
        if piece.words:
            self._end_thinking()
            self._write(piece.words)

    def _think(self, text: str) -> None:
        self._errors.print(printable(text), style="dim", end="", markup=False, soft_wrap=True)
        self._errors.file.flush()

    def _end_thinking(self) -> None:
        if self._thinks:
            self._thinks = False
            self.note("\n... done thinking.\n")

    def _write(self, text: str) -> None:
        # First, for Ctrl-C may come while it is written.
        self._last = text[-1:] or self._last
        self._out.file.write(printable(text) if self._out.is_terminal else text)
        self._out.file.flush()


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return _CONTROLS.sub("", text)


def screen(*, show_thinking: bool) -> Screen:
    """On this process's output."""
    from rich.console import Console

    out, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    return Screen(out, errors, show_thinking=show_thinking)
