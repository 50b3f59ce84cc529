import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.engine.stops import StopScanner, held_back

ABC = st.text("abc", min_size=1, max_size=5)
TEXTS = st.text("abcé", max_size=30)


def scanned(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    shown = "".join(scanner.feed(piece) for piece in pieces)
    return shown + scanner.flush(), scanner.stopped


def test_text_without_a_stop_comes_through_whole() -> None:
    assert scanned(["STOP"], ["Hello, ", "world"]) == ("Hello, world", False)


def test_neither_the_stop_nor_what_follows_is_shown() -> None:
    scanner = StopScanner(["STOP"])
    assert scanner.feed("one ST") == "one "
    assert scanner.feed("OP two") == ""
    assert scanner.stopped
    assert scanner.feed("three") == ""
    assert scanner.flush() == ""


def test_what_turns_out_to_be_no_stop_is_shown_after_all() -> None:
    scanner = StopScanner(["STOP"])
    assert [scanner.feed("ST"), scanner.feed("ART"), scanner.flush()] == ["", "START", ""]


def test_what_the_text_ends_in_is_shown() -> None:
    assert scanned(["STOP"], ["a STO"]) == ("a STO", False)


def test_empty_stops_stop_nothing() -> None:
    assert scanned(["", ""], ["abc"]) == ("abc", False)
    assert scanned([], ["abc"]) == ("abc", False)


def test_the_stop_that_is_complete_first_counts() -> None:
    """The longer one has begun earlier, but whoever reads character by character cannot know its end."""
    assert scanned(["abcd", "b"], ["abcd"]) == ("a", True)
    assert scanned(["abcd", "b"], list("abcd")) == ("a", True)


def test_of_two_that_end_together_the_longer_one_counts() -> None:
    assert scanned(["b", "ab"], ["xab"]) == ("x", True)


@pytest.mark.parametrize(
    ("text", "markers", "length"),
    [
        ("", ["STOP"], 0),
        ("a", ["STOP"], 0),
        ("a S", ["STOP"], 1),
        ("a STO", ["STOP"], 3),
        ("STOP", ["STOP"], 0),
        ("a STO", [], 0),
        ("aba", ["abac", "ax"], 3),
        ("<", ["<think>", "<tool_call>"], 1),
        ("ü<t", ["<think>", "<tool_call>"], 2),
        ("aaa", ["aaaa"], 3),
    ],
)
def test_held_back(text: str, markers: list[str], length: int) -> None:
    assert held_back(text, markers) == length


@given(TEXTS, st.lists(ABC, max_size=4))
def test_held_back_is_the_longest_tail_that_begins_a_marker(text: str, markers: list[str]) -> None:
    tails = [
        length
        for length in range(1, len(text) + 1)
        if any(marker.startswith(text[-length:]) and marker != text[-length:] for marker in markers)
    ]
    assert held_back(text, markers) == max(tails, default=0)


@given(TEXTS, st.lists(ABC, max_size=4))
@example("abcd", ["abcd", "b"])
@example("aaab", ["aab", "aaaa"])
def test_how_the_text_is_cut_makes_no_difference(text: str, stops: list[str]) -> None:
    whole = scanned(stops, [text])
    assert scanned(stops, list(text)) == whole
    for place in range(len(text) + 1):
        assert scanned(stops, [text[:place], text[place:]]) == whole


@given(TEXTS, st.lists(ABC, max_size=4))
def test_what_is_shown_is_the_beginning_without_any_stop(text: str, stops: list[str]) -> None:
    shown, stopped = scanned(stops, list(text))
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert stopped == any(stop in text for stop in stops)
    if stopped:
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
    else:
        assert shown == text


@given(TEXTS, st.lists(ABC, max_size=4))
def test_no_beginning_of_a_stop_gets_out_before_it_is_refuted(text: str, stops: list[str]) -> None:
    scanner = StopScanner(stops)
    shown = ""
    for place, character in enumerate(text, start=1):
        shown += scanner.feed(character)
        if scanner.stopped:
            return
        assert len(shown) == place - held_back(text[:place], stops)
