"""What a person types into a chat: lines, texts of several lines, a history, and completion by Tab."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

QUOTES = '"""'
PROMPT, MORE = ">>> ", "... "
_MOST_LINES = 1000

Complete = Callable[[str], list[str]]
"""What may stand in place of the last word of a line, given the line up to the cursor."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A whole text. What begins with a slash is a command, but not between quotes."""

    text: str
    is_command: bool


class Draft:
    """Collects lines: what stands between two \"\"\" is one text, also behind a command."""

    def __init__(self) -> None:
        self._before = ""
        self._lines: list[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the text goes on in the next line."""
        return self._lines is not None

    def add(self, line: str) -> Typed | None:
        """The whole text, once ``line`` completes it."""
        if self._lines is not None:
            self._lines.append(line)
        else:
            before, quotes, rest = line.partition(QUOTES)
            if not quotes or (before.strip() and not before.startswith("/")):
                return Typed(line, is_command=line.startswith("/"))
            self._before, self._lines = before.lstrip(), [rest]
        if not self._lines[-1].rstrip().endswith(QUOTES):
            return None
        text = "\n".join(self._lines).rstrip().removesuffix(QUOTES).strip("\n")
        self._lines = None
        return Typed(self._before + text, is_command=bool(self._before))

    def drop(self) -> None:
        """Forget what was begun."""
        self._lines = None


def texts(*, history: Path | None, complete: Complete, hint: Callable[[], None]) -> Iterator[Typed]:
    """What is typed on the terminal until Ctrl-D, or comes from a pipe until its end.

    ``history`` is the file that remembers it, None: none. Ctrl-C drops what was begun; ``hint`` says then how
    to leave.
    """
    if not sys.stdin.isatty():
        yield from _whole(line.decode("utf-8", "replace").rstrip("\n") for line in sys.stdin.buffer)
        return
    with _readline(history, complete):
        yield from _typed(hint)


def piped() -> str:
    """All of what comes from a pipe; bytes that are no text become U+FFFD, for logs have such."""
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _whole(lines: Iterator[str]) -> Iterator[Typed]:
    draft = Draft()
    for line in lines:
        typed = draft.add(line)
        if typed is not None:
            yield typed


def _typed(hint: Callable[[], None]) -> Iterator[Typed]:
    draft = Draft()
    while True:
        try:
            typed = draft.add(input(MORE if draft.is_open else PROMPT))
        except EOFError:
            return
        except KeyboardInterrupt:
            draft.drop()
            hint()
            continue
        if typed is not None:
            yield typed


def history_file(environ: Mapping[str, str]) -> Path | None:
    """Where the lines of earlier chats are; None where there is no home."""
    if folder := environ.get("XDG_STATE_HOME"):
        return Path(folder, "llm-optimizer", "history")
    home = environ.get("HOME")
    return Path(home, ".local", "state", "llm-optimizer", "history") if home else None


@contextlib.contextmanager
def _readline(history: Path | None, complete: Complete) -> Iterator[None]:
    try:
        import readline
    except ImportError:  # a Python without it still has input()
        yield
        return
    readline.parse_and_bind("tab: complete")
    # Lines that are pasted come as one text, not as so many questions.
    readline.parse_and_bind("set enable-bracketed-paste on")
    readline.set_completer_delims(" \n")
    readline.set_completer(_by_number(complete, readline.get_line_buffer))
    readline.set_history_length(_MOST_LINES)
    if history is not None:
        with contextlib.suppress(OSError):
            readline.read_history_file(history)
    try:
        yield
    finally:
        if history is not None:
            with contextlib.suppress(OSError):
                _make_private(history)
                readline.write_history_file(history)


def _make_private(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))


def _by_number(complete: Complete, line: Callable[[], str]) -> Callable[[str, int], str | None]:
    """As readline asks: for the first candidate, the second, until there is none."""
    found: list[str] = []

    def ask(_word: str, number: int) -> str | None:
        if number == 0:
            found[:] = complete(line())
        return found[number] if number < len(found) else None

    return ask
