"""What is typed into a chat becomes texts."""

from pathlib import Path

import pytest

from server.commands.lines import Draft, Typed, history_file


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (["one", "two"], ["one", "two"]),
        (['"""one', "two", '"""'], ["one\ntwo"]),
        (['"""', "  one", "", "two", '"""'], ["  one\n\ntwo"]),
        (['"""one"""'], ["one"]),
        (['"""one', 'two"""', "three"], ["one\ntwo", "three"]),
        (['/system """be', 'terse"""'], ["/system be\nterse"]),
        (['say """ aloud'], ['say """ aloud']),
        ([""], [""]),
    ],
)
def test_three_quotes_hold_lines_together(lines: list[str], texts: list[str]) -> None:
    draft = Draft()
    assert [typed.text for line in lines if (typed := draft.add(line)) is not None] == texts
    assert not draft.is_open


def test_what_was_begun_can_be_dropped() -> None:
    draft = Draft()
    assert draft.add('"""one') is None
    assert draft.is_open
    draft.drop()
    assert draft.add("two") == Typed("two", is_command=False)


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        ("/help", Typed("/help", is_command=True)),
        ('/system """/etc"""', Typed("/system /etc", is_command=True)),
        ('"""/etc/hosts, what is it?"""', Typed("/etc/hosts, what is it?", is_command=False)),
        ("etc", Typed("etc", is_command=False)),
    ],
)
def test_what_is_a_command(line: str, typed: Typed) -> None:
    assert Draft().add(line) == typed


def test_where_the_history_is() -> None:
    assert history_file({"XDG_STATE_HOME": "/state", "HOME": "/home"}) == Path("/state/llm-optimizer/history")
    assert history_file({"HOME": "/home"}) == Path("/home/.local/state/llm-optimizer/history")
    assert history_file({}) is None
