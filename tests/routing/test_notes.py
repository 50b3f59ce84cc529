from hypothesis import given
from hypothesis import strategies as st

from server.routing.notes import merged

OLDER = """Goal: make the parser faster
State: parser.py was read.
Files: src/parser.py; src/lexer.py
Errors: IndexError in parse_all; 3 failed"""
NEWER = """**Goal:** make the parser faster
- State: It is twice as fast now.
Decisions: keep the old lexer; it is tested.
Files: src/parser.py; tests/test_parser.py
Errors: none
Numbers: 42"""


def test_each_section_once_with_the_oldest_first() -> None:
    assert merged([OLDER, NEWER], 10_000) == (
        "Goal: make the parser faster\n"
        "State: parser.py was read. It is twice as fast now.\n"
        "Decisions: keep the old lexer; it is tested.\n"
        "Files: src/parser.py; src/lexer.py; tests/test_parser.py\n"
        "Errors: IndexError in parse_all; 3 failed\n"
        "Numbers: 42"
    )


def test_a_single_one_stays_as_it_is() -> None:
    assert merged([NEWER], 10) == NEWER


def test_words_without_a_heading_are_the_state() -> None:
    texts = ["They talk about ports.", "Now about hosts.\nFiles: a.py"]
    assert merged(texts, 1000) == "State: They talk about ports. Now about hosts.\nFiles: a.py"


def test_lines_below_a_heading_belong_to_it() -> None:
    text = "## Decisions:\n- use sqlite\n1. no cache\n\nFiles:\n* a.py\n* b.py"
    assert merged([text, ""], 1000) == "Decisions: use sqlite; no cache\nFiles: a.py; b.py"


def test_the_oldest_words_of_what_is_missed_least_go_first() -> None:
    whole = merged([OLDER, NEWER], 10_000)
    assert "Numbers" not in merged([OLDER, NEWER], len(whole) - 1)
    shorter = merged([OLDER, NEWER], len(whole) - 25)
    assert "parser.py was read." not in shorter
    assert "twice as fast" in shorter
    assert merged([OLDER, NEWER], 30) == "Goal: make the parser faster"


ITEMS = st.from_regex(r"[a-z]{1,8} [a-z]{1,8}", fullmatch=True)
NOTES = st.dictionaries(
    st.sampled_from(["Goal", "State", "Decisions", "Files", "Errors"]), ITEMS, min_size=1
).map(lambda sections: "\n".join(f"{name}: {text}" for name, text in sections.items()))


@given(st.lists(NOTES, min_size=2, max_size=6), st.integers(0, 200))
def test_nothing_is_lost_within_the_budget_and_nothing_is_longer(notes: list[str], budget: int) -> None:
    whole = merged(notes, 100_000)
    items = [line.split(": ", 1)[1] for text in notes for line in text.splitlines()]
    assert all(item in whole for item in items)
    assert len(merged(notes, budget)) <= budget
