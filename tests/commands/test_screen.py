"""An answer on a terminal and in a pipe."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from server.client.answers import Piece
from server.client.errors import Refused
from server.commands.screen import Screen

PIECES = [Piece("", "hm\x1b[2J"), Piece("\x1b]0;title\x07Hel"), Piece("lo\r\n\tthere")]


def shown(pieces: list[Piece], *, terminal: bool, show_thinking: bool = True) -> tuple[str, str]:
    out, errors = io.StringIO(), io.StringIO()
    screen = Screen(
        Console(file=out, force_terminal=terminal, color_system=None),
        Console(file=errors, force_terminal=terminal, color_system=None),
        show_thinking=show_thinking,
    )
    screen.show(pieces, "m reads")
    return out.getvalue(), errors.getvalue()


def test_a_pipe_gets_the_words_as_they_are() -> None:
    out, errors = shown(PIECES, terminal=False)
    assert out == "\x1b]0;title\x07Hello\r\n\tthere\n"
    assert errors == "Thinking ...\nhm[2J\n... done thinking.\n\n"


def test_on_a_terminal_words_do_nothing_but_stand_there() -> None:
    out, errors = shown(PIECES, terminal=True)
    assert out.endswith("]0;titleHello\n\tthere\n")
    assert "\x1b[2J" not in errors


def test_thinking_can_be_hidden() -> None:
    assert shown(PIECES, terminal=False, show_thinking=False)[1] == ""


def test_what_ends_in_a_line_feed_gets_no_other() -> None:
    assert shown([Piece("one\n")], terminal=False)[0] == "one\n"
    assert shown([], terminal=False) == ("", "")


def test_an_error_in_the_middle_begins_on_a_line_of_its_own() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out), Console(file=io.StringIO()), show_thinking=True)

    def broken() -> Iterator[Piece]:
        yield Piece("half")
        raise Refused("in the middle")

    with pytest.raises(Refused, match="in the middle"):
        screen.show(broken(), "m reads")
    assert out.getvalue() == "half\n"
