"""Patterns let through what Python's own regular expressions find, and nothing else."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.errors import InvalidRequest
from server.engine.grammar import grammar_of
from tests.engine.matching import accepts

PATTERNS = [
    r"^\d{3}-\w+\s?$",
    r"^\D\W\S$",
    r"^[^\d\s]{2,4}$",
    r"^[\w.-]+@[\w-]+\.[a-z]{2,}$",
    r"^(ab|c)+$",
    r"^(?:a|b(?:c|d)?){1,3}$",
    r"^(?P<year>\d{4})/(0[1-9]|1[0-2])$",
    r"^a|b$",
    r"^$|^x+$",
    r"^.$",
    r"^a.*?b+?$",
    r"^https?://\S+",
    r"\.(py|txt)$",
    r"^[\]\[\\^-]+$",
    r'^"[^"]*"$',
    r"^\\\"\/\-\.\*$",
    r"^\t\n[\x41-\x43é\u00fc]$",
    r"^[\u4e00-\u9fff]{1,3}$",
    r"^(a?b?)?c$",
    r"^x{2}y{,2}z{1,}$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=20)
@given(data=st.data())
def test_what_matches_passes(pattern: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII)).filter(is_plain))
    assert accepts({"type": "string", "pattern": pattern}, text), text


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=40)
@given(text=st.text('abcdxyz019_-.@/\\"[]^ \t\néü中', max_size=6))
def test_passes_only_what_matches(pattern: str, text: str) -> None:
    matches = re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None
    assert accepts({"type": "string", "pattern": pattern}, text) == matches


def is_plain(text: str) -> bool:
    """Whether a model would write ``text`` in the one way that a grammar has for it."""
    # Python has fewer spaces and ends of lines than JavaScript; the embedded model has only the first planes.
    rare = "\x00-\x07\x0b\x0d-\x1f\xa0\u2028\u2029\u3000\ufeff\ud800-\udfff\U00020000-\U0010ffff"
    return not re.search(f"[{rare}]|\\n\\Z", text)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^(?!x)[a-z]$", ["a", "x"], ["A"]),
        (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", ["1.5", "-2"], ["a"]),
        (r"^\u{1F600}\cx?$".replace(r"\cx?", ""), ["😀"], ["a"]),
        (r"^[^]$", ["a", "\n", '"'], ["ab"]),
        (r"^\x00\x1f$", ["\x00\x1f"], [""]),
        (r"^\s$", [" ", "\t", "\u3000"], ["a"]),
        (r"^(?<name>a)$", ["a"], ["b"]),
        (r"^[\w-.]+$", ["a-b.c"], ["a+b"]),
    ],
)
def test_what_only_others_have(pattern: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        assert accepts({"type": "string", "pattern": pattern}, text), text
    for text in bad:
        assert not accepts({"type": "string", "pattern": pattern}, text), text


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("abc", "begin with ^ or end with $"),
        ("^a|b", "begin with ^ or end with $"),
        ("^a$b$", "anchor"),
        ("^(^a)$", "anchor"),
        ("^(a$)$", "anchor"),
        (r"^(a)\1$", r"\1"),
        (r"^\p{L}$", r"\p"),
        (r"^\bword$", r"\b"),
        ("^(?=a)$", "group"),
        ("^(?i)a$", "group"),
        ("^(a$", "group"),
        ("^a)$", ")"),
        ("^[a$", "["),
        ("^[]$", "[]"),
        ("^[z-a]$", "range"),
        (r"^[a-\d]$", "range"),
        ("^+$", "+"),
        ("^a**$", "*"),
        ("^a{x}$", "{"),
        ("^a{3,2}$", "backwards"),
        ("^(a*)*$", "empty"),
        ("^(a{1,900}){1,900}$", "too much"),
        ("^(a{1,40}){1,40}$", "too much"),
        ("^a{2001}$", "too much"),
        ("^\\", "\\"),
        ("^\\ud800$", "d800"),
        ("^\\u{110000}$", "110000"),
    ],
)
def test_what_cannot_be_expressed(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        grammar_of({"properties": {"a": {"type": "string", "pattern": pattern}}})
    assert "#/properties/a: pattern /" in str(error.value)
    assert reason in str(error.value)
