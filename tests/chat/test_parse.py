import json
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chat.parse import AnswerParser, Expected
from server.domain.chat import AnswerDelta

PLAIN = Expected()
THINKS = Expected(thinking=True)
INSIDE = Expected(thinking=True, inside_thinking=True)
TOOLS = Expected(tools=True)
BOTH = Expected(thinking=True, tools=True)

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "a < b"}}\n</tool_call>'
LOOK: tuple[str, Any] = ("look", {"at": "a < b"})
OTHER = '<tool_call>{"name": "go", "arguments": {}}</tool_call>'
GO: tuple[str, Any] = ("go", {})
BROKEN = " \n<tool_call>x</tool_call>\n b"


class Answer(NamedTuple):
    content: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, Any], ...] = ()


class Case(NamedTuple):
    name: str
    expected: Expected
    output: str
    answer: Answer


CORPUS = [
    Case("nothing", BOTH, "", Answer()),
    Case("words", PLAIN, "Hello, world.\n", Answer("Hello, world.\n")),
    Case("words and blanks", BOTH, "\n  Hello \n\n you \n", Answer("\n  Hello \n\n you \n")),
    Case("only blanks", BOTH, " \n\n", Answer(" \n\n")),
    Case("thinking", THINKS, "<think>\nHm.\n</think>\n\nYes.", Answer("Yes.", "Hm.")),
    Case("thinking behind blanks", THINKS, "\n <think> Hm. </think> Yes. ", Answer("Yes. ", "Hm.")),
    Case("empty thinking", THINKS, "<think>\n\n</think>\n\nYes.", Answer("Yes.")),
    Case("thinking without an answer", THINKS, "<think>Hm.</think>\n", Answer("", "Hm.")),
    Case("thinking cut short", THINKS, "<think>\nHm, a\n\n b \n", Answer("", "Hm, a\n\n b")),
    Case("thinking cut in its tag", THINKS, "<think>Hm.\n</thi", Answer("", "Hm.\n</thi")),
    Case("tag cut short", THINKS, " <thin", Answer(" <thin")),
    Case("look-alikes in thinking", THINKS, "<think>a < b </thin > </think>c", Answer("c", "a < b </thin >")),
    Case("a second thinking is text", THINKS, "<think>a</think><think>", Answer("<think>", "a")),
    Case("late thinking is text", THINKS, "Yes <think>b</think>", Answer("Yes <think>b</think>")),
    Case("thinking in capitals is text", THINKS, "<Think>b</Think>", Answer("<Think>b</Think>")),
    Case("thinking that was not expected", PLAIN, "<think>b</think>", Answer("<think>b</think>")),
    Case("opened by the prompt", INSIDE, "\nHm.\n</think>\n\nYes.", Answer("Yes.", "Hm.")),
    Case("opened by the prompt, never closed", INSIDE, "Hm.\n", Answer("", "Hm.")),
    Case("opened by the prompt, closed at once", INSIDE, "</think>Yes.", Answer("Yes.")),
    Case("one call", TOOLS, CALL, Answer(calls=(LOOK,))),
    Case("one call between blanks", TOOLS, f"\n\n{CALL}\n\n", Answer(calls=(LOOK,))),
    Case("two calls", TOOLS, f"{CALL}\n{OTHER}", Answer(calls=(LOOK, GO))),
    Case("text before a call", TOOLS, f"I look.\n\n{CALL}", Answer("I look.", calls=(LOOK,))),
    Case("text around calls", TOOLS, f"a.\n{CALL}\n{OTHER}\nb.", Answer("a.\nb.", calls=(LOOK, GO))),
    Case("thinking and a call", BOTH, f"<think>Hm.</think>\n\n{CALL}", Answer("", "Hm.", (LOOK,))),
    Case("a call inside thinking", BOTH, f"<think>{OTHER}</think>a", Answer("a", OTHER)),
    Case("parameters for arguments", TOOLS, CALL.replace("arguments", "parameters"), Answer(calls=(LOOK,))),
    Case("no arguments", TOOLS, '<tool_call>{"name": "go"}</tool_call>', Answer(calls=(GO,))),
    Case("a call that never closes", TOOLS, CALL.removesuffix("</tool_call>"), Answer(calls=(LOOK,))),
    Case("a call cut in its closing tag", TOOLS, f"a\n{CALL[:-3]}", Answer(f"a\n{CALL[:-3]}")),
    Case("a call cut in its JSON", TOOLS, f"a\n{CALL[:30]}", Answer(f"a\n{CALL[:30]}")),
    Case("a call cut in its tag", TOOLS, "a\n<tool_c", Answer("a\n<tool_c")),
    Case("look-alikes of calls", TOOLS, "a <tool_ <tool_calls> < b", Answer("a <tool_ <tool_calls> < b")),
    Case("calls that were not expected", PLAIN, f"a\n{CALL}\n", Answer(f"a\n{CALL}\n")),
    Case("a call after a broken one", TOOLS, f"{BROKEN} {OTHER}", Answer(BROKEN, calls=(GO,))),
    Case("characters of all sizes", BOTH, "é😀\u2028ü", Answer("é😀\u2028ü")),
    *(
        Case(f"broken call {number}", TOOLS, BROKEN.replace("x", body), Answer(BROKEN.replace("x", body)))
        for number, body in enumerate(
            [
                "",
                "look()",
                "[]",
                "{}",
                '{"name": 1}',
                '{"name": "a", "arguments": "b"}',
                '{"name": "a", "arguments": [1]}',
                '{"name": "a", "arguments": {"b": NaN}}',
                '{"name": "a"',
                "[" * 100_000,
            ]
        )
    ),
]


def parsed(expected: Expected, pieces: list[str]) -> Answer:
    parser = AnswerParser(expected)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    deltas += parser.finish()
    assert AnswerDelta() not in deltas
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert len({call.id for call in calls}) == len(calls)
    return Answer(
        "".join(delta.content for delta in deltas),
        "".join(delta.thinking for delta in deltas),
        tuple((call.name, call.arguments) for call in calls),
    )


def ids(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CORPUS, ids=ids)
def test_fed_whole(case: Case) -> None:
    assert parsed(case.expected, [case.output]) == case.answer


@pytest.mark.parametrize("case", [case for case in CORPUS if len(case.output) < 1000], ids=ids)
def test_fed_in_any_two_pieces(case: Case) -> None:
    for place in range(len(case.output) + 1):
        assert parsed(case.expected, [case.output[:place], case.output[place:]]) == case.answer


@pytest.mark.parametrize("case", [case for case in CORPUS if len(case.output) < 1000], ids=ids)
def test_fed_one_character_at_a_time(case: Case) -> None:
    assert parsed(case.expected, list(case.output)) == case.answer


BITS = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<", "</", "<t", "a", " ", "\n", "é", OTHER, "{}"]
)
EXPECTED = st.builds(Expected, thinking=st.booleans(), tools=st.booleans())


@given(st.lists(BITS, max_size=12).map("".join), EXPECTED, st.data())
def test_how_the_output_is_cut_makes_no_difference(
    output: str, expected: Expected, data: st.DataObject
) -> None:
    whole = parsed(expected, [output])
    assert parsed(expected, list(output)) == whole
    places = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=4)))
    ends = [*places, len(output)]
    assert parsed(expected, [output[a:b] for a, b in zip([0, *places], ends, strict=True)]) == whole


@given(st.lists(BITS, max_size=12).map("".join), EXPECTED)
def test_nothing_is_lost(output: str, expected: Expected) -> None:
    """All that is missing are tags, blanks and the calls that were understood."""
    answer = parsed(expected, [output])
    ours, theirs = re.sub(r"\s+", "", output), re.sub(r"\s+", "", answer.thinking + answer.content)
    if not expected.thinking and not expected.tools:
        assert answer.content == output
    assert expected.tools or not answer.calls
    kept = iter(ours)
    assert all(character in kept for character in theirs)
    tags = 15 if expected.thinking else 0
    call = len(re.sub(r"\s+", "", OTHER))
    assert len(ours) - len(theirs) <= tags + call * len(answer.calls)


@given(st.lists(BITS, max_size=8).map("".join))
def test_thinking_has_no_blanks_around_it(output: str) -> None:
    thinking = parsed(INSIDE, [output + "</think>"]).thinking
    assert thinking == thinking.strip()


def test_words_are_not_held_back() -> None:
    parser = AnswerParser(BOTH)
    assert parser.feed("Hello") == (AnswerDelta(content="Hello"),)
    assert parser.feed(" <b") == (AnswerDelta(content=" <b"),)
    assert parser.feed(" <tool") == ()
    assert parser.feed("s>") == (AnswerDelta(content=" <tools>"),)


def test_thinking_is_not_held_back() -> None:
    parser = AnswerParser(THINKS)
    assert parser.feed("<think>\nHm") == (AnswerDelta(thinking="Hm"),)
    assert parser.feed(", so\n") == (AnswerDelta(thinking=", so"),)
    assert parser.feed("</think>\nYes") == (AnswerDelta(content="Yes"),)


def test_a_call_comes_when_it_is_complete() -> None:
    parser = AnswerParser(TOOLS)
    assert parser.feed(CALL[:-1]) == ()
    (delta,) = parser.feed(">")
    (call,) = delta.tool_calls
    assert (call.name, call.arguments) == LOOK
    assert call.id
    assert call.id.startswith("call_")


def test_a_call_with_its_own_tag_inside_is_text() -> None:
    body = json.dumps({"name": "say", "arguments": {"text": "</tool_call>"}})
    answer = parsed(TOOLS, [f"<tool_call>{body}</tool_call>"])
    assert answer == Answer(f"<tool_call>{body}</tool_call>")
