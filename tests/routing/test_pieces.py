import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.domain.chat import Message, ToolCall
from server.routing.pieces import as_text, split
from tests.routing.chats import ANY_TEXT


@given(ANY_TEXT, st.integers(1, 300))
@example("\n\n", 1)
@example("a. ", 1)
@example("x" * 100_000, 300)
@example("\n" * 1000, 1)
def test_pieces_are_the_text_and_fit(text: str, most: int) -> None:
    pieces = split(text, lambda piece: len(piece) <= most)
    assert "".join(pieces) == text
    assert all(len(piece) <= most for piece in pieces)
    assert all(pieces) or pieces == ("",)


@given(st.text(max_size=60))
def test_what_never_fits_is_cut_to_single_characters(text: str) -> None:
    assert split(text, lambda _: False) == (tuple(text) or ("",))


@given(ANY_TEXT, st.randoms(use_true_random=False))
def test_cutting_ends_whatever_is_said_to_fit(text: str, chance: random.Random) -> None:
    pieces = split(text[:400], lambda _: chance.random() < 0.5)
    assert "".join(pieces) == text[:400]


def test_what_fits_is_not_cut() -> None:
    assert split("a\n\nb", lambda _: True) == ("a\n\nb",)


@given(st.integers(10, 200), st.integers(50, 2000))
def test_pieces_are_not_needlessly_small(most: int, length: int) -> None:
    pieces = split("x" * length, lambda piece: len(piece) <= most)
    assert len(pieces) <= 1 or all(len(piece) >= most // 4 for piece in pieces)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a a. b\nc\n \nd\n\n", "=== user ===\ne f. g\nh\n\ni. j k"),
        ("aaaa b. c\nd\n\n", "e f. g\nhhhh i j"),
        ("aaaa b. c\n", "d e. fffff"),
        ("aaaa bb! ", "c ddd eeee"),
        ("aaaa bbb ", "cccc dddd"),
        ("aaaaaaaa", "bbbbbbbb"),
    ],
)
def test_the_best_border_is_taken(left: str, right: str) -> None:
    longer = max(len(left), len(right))
    assert split(left + right, lambda piece: len(piece) <= longer) == (left, right)


def test_of_equal_borders_the_middle_one_is_taken() -> None:
    assert split("aa bb cc dd ee ff", lambda piece: len(piece) < 12) == ("aa bb cc ", "dd ee ff")


def test_messages_as_text() -> None:
    history = [
        Message("user", "What?"),
        Message("assistant", "I look.", tool_calls=(ToolCall("look", {"at": "it"}),)),
        Message("tool", "It is."),
    ]
    expected = (
        "=== user ===\nWhat?\n\n"
        "=== assistant ===\nI look.\n[called look with {'at': 'it'}]\n\n"
        "=== tool ===\nIt is."
    )
    assert as_text(history, "") == expected
    assert as_text(history, "More.") == f"{expected}\n\n=== user ===\nMore."
    assert as_text([], "More.") == "More."
    assert as_text([], "") == ""
