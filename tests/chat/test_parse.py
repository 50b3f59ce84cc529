"""What an answer is split into, however its text is cut into pieces."""

import json
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chat.calls import schemas_of
from server.chat.parse import AnswerParser, Expected
from server.domain.chat import AnswerDelta, ToolCall
from tests.chat.outputs import BARE, BOTH, CALL, KNOWN, LOOK, THINKS, TOOLS, XML, XML_OPEN

PLAIN = Expected()
INSIDE = Expected(thinking=True, inside_thinking=True)

OTHER = '<tool_call>{"name": "go", "arguments": {}}</tool_call>'
GO: tuple[str, Any] = ("go", {})
BROKEN = " \n<tool_call>x</tool_call>\n b"
BARE_GO = '{"name": "go", "arguments": {}}'
CLOSING_LOOK: tuple[str, Any] = ("look", {"at": "a </tool_call> b"})
FIVE: tuple[str, Any] = ("look", {"lines": 5})
AT_FIVE: tuple[str, Any] = ("look", {"at": "5"})
WRITE: tuple[str, Any] = ("write_to_file", {"path": "a.txt", "content": "one\ntwo", "force": True})
WRITE_JSON = (
    r'{"name": "write_to_file", "arguments": {"path": "a.txt", "content": "one\ntwo", "force": true}}'
)


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
    Case(
        "arguments as text",
        TOOLS,
        CALL.replace('{"at": "a < b"}', r'"{\"at\": \"a < b\"}"'),
        Answer(calls=(LOOK,)),
    ),
    Case("a call that never closes", TOOLS, CALL.removesuffix("</tool_call>"), Answer(calls=(LOOK,))),
    Case("a call cut in its closing tag", TOOLS, f"a\n{CALL[:-3]}", Answer("a", calls=(LOOK,))),
    Case("a call that never opens", TOOLS, CALL.removeprefix("<tool_call>"), Answer(calls=(LOOK,))),
    Case("a call cut in its JSON", TOOLS, f"a\n{CALL[:30]}", Answer(f"a\n{CALL[:30]}")),
    Case("a call cut behind an argument", TOOLS, f"a\n{CALL[:-16]}", Answer(f"a\n{CALL[:-16]}")),
    Case("a call without its last bracket", TOOLS, CALL.replace("}}", "}"), Answer(calls=(LOOK,))),
    Case("a call without any bracket", TOOLS, CALL.replace("}}", ""), Answer(calls=(LOOK,))),
    Case("a call cut in its tag", TOOLS, "a\n<tool_c", Answer("a\n<tool_c")),
    Case(
        "its own closing tag inside",
        TOOLS,
        CALL.replace("a < b", "a </tool_call> b"),
        Answer(calls=(CLOSING_LOOK,)),
    ),
    Case("look-alikes of calls", TOOLS, "a <tool_ <tool_calls> < b", Answer("a <tool_ <tool_calls> < b")),
    Case("calls that were not expected", PLAIN, f"a\n{CALL}\n", Answer(f"a\n{CALL}\n")),
    Case("a bare call that was not expected", PLAIN, BARE, Answer(BARE)),
    Case("a call after a broken one", TOOLS, f"{BROKEN} {OTHER}", Answer(BROKEN, calls=(GO,))),
    Case(
        "a call inside one that broke",
        TOOLS,
        f'<tool_call>{{"name": "look", {OTHER}',
        Answer('<tool_call>{"name": "look",', calls=(GO,)),
    ),
    Case("a bare call", TOOLS, BARE, Answer(calls=(LOOK,))),
    Case("a bare call over lines", TOOLS, BARE.replace(", ", ",\n  "), Answer(calls=(LOOK,))),
    Case("a bare call behind words", TOOLS, f"I look.\n\n{BARE}\n", Answer("I look.", calls=(LOOK,))),
    Case(
        "a bare call in front of words",
        TOOLS,
        f"{BARE}\n\nThat is all.",
        Answer("That is all.", calls=(LOOK,)),
    ),
    Case("a bare call indented", TOOLS, f"  {BARE}", Answer(calls=(LOOK,))),
    Case("bare calls in lines", TOOLS, f"{BARE}\n{BARE_GO}", Answer(calls=(LOOK, GO))),
    Case("bare calls in a list", TOOLS, f"[{BARE}, {BARE_GO}]", Answer(calls=(LOOK, GO))),
    Case("arguments first", TOOLS, '{"arguments": {"at": "a < b"}, "name": "look"}', Answer(calls=(LOOK,))),
    Case("as OpenAI writes it", TOOLS, f'{{"type": "function", "function": {BARE}}}', Answer(calls=(LOOK,))),
    Case("with an id", TOOLS, f'{{"id": "call_1", {BARE[1:]}', Answer(calls=(LOOK,))),
    Case("the name as function", TOOLS, '{"function": "go", "arguments": {}}', Answer(calls=(GO,))),
    Case("a bare call in the middle of a line", TOOLS, f"Say {BARE}", Answer(f"Say {BARE}")),
    Case(
        "a bare call of another tool",
        TOOLS,
        BARE.replace("look", "cook"),
        Answer(BARE.replace("look", "cook")),
    ),
    Case("a bare name alone", TOOLS, '{"name": "go"}', Answer('{"name": "go"}')),
    Case("JSON that is no call", TOOLS, '{"a": {"name": "go"}}', Answer('{"a": {"name": "go"}}')),
    Case(
        "JSON over lines that is no call",
        TOOLS,
        '{\n  "a": [\n    {"b": 1}\n  ]\n}\n',
        Answer('{\n  "a": [\n    {"b": 1}\n  ]\n}\n'),
    ),
    Case("a list of numbers", TOOLS, "[1, 2]\n{3}", Answer("[1, 2]\n{3}")),
    Case("a bare call cut short", TOOLS, BARE[:-5], Answer(BARE[:-5])),
    Case("a bare call without its last bracket", TOOLS, BARE[:-1], Answer(calls=(LOOK,))),
    Case("in a fence", TOOLS, f"```json\n{BARE}\n```", Answer(calls=(LOOK,))),
    Case("in a fence without a language", TOOLS, f"```\n{BARE}\n```\nDone.", Answer("Done.", calls=(LOOK,))),
    Case(
        "in a fence behind words",
        TOOLS,
        f"I look:\n\n```json\n{BARE}\n```\n",
        Answer("I look:", calls=(LOOK,)),
    ),
    Case("in a fence that never closes", TOOLS, f"```json\n{BARE}", Answer(calls=(LOOK,))),
    Case(
        "a fence inside of tags",
        TOOLS,
        f"<tool_call>\n```json\n{BARE}\n```\n</tool_call>",
        Answer(calls=(LOOK,)),
    ),
    Case(
        "another fence behind a bare call",
        TOOLS,
        f"{BARE}\n```sh\nls\n```",
        Answer("```sh\nls\n```", calls=(LOOK,)),
    ),
    Case("code in a fence", TOOLS, "```python\n{1: 2}\n```\n", Answer("```python\n{1: 2}\n```\n")),
    Case("a fence cut short", TOOLS, "a\n```js", Answer("a\n```js")),
    Case("the tag of the tools", TOOLS, f"<tools>\n{BARE}\n</tools>", Answer(calls=(LOOK,))),
    Case("the tag of functions", TOOLS, f"<function_call>{BARE}</function_call>", Answer(calls=(LOOK,))),
    Case(
        "two calls in one tag",
        TOOLS,
        f"<tool_call>\n{BARE}\n{BARE_GO}\n</tool_call>",
        Answer(calls=(LOOK, GO)),
    ),
    Case("line breaks in a string", TOOLS, WRITE_JSON.replace(r"\n", "\n"), Answer(calls=(WRITE,))),
    Case("escaped line breaks", TOOLS, WRITE_JSON, Answer(calls=(WRITE,))),
    Case("a number as text", TOOLS, '{"name": "look", "arguments": {"lines": "5"}}', Answer(calls=(FIVE,))),
    Case("a text as number", TOOLS, '{"name": "look", "arguments": {"at": 5}}', Answer(calls=(AT_FIVE,))),
    Case(
        "a list without the name of its argument, twice",
        TOOLS,
        '{"name": "read", "arguments": [\n {"path": "a"}\n]}\n{"name": "read", "arguments": [{"path": "b"}]}',
        Answer(calls=(("read", {"files": [{"path": "a"}]}), ("read", {"files": [{"path": "b"}]}))),
    ),
    Case(
        "a text without the name of its argument",
        TOOLS,
        BARE.replace('{"at": "a < b"}', '"a < b"'),
        Answer(calls=(LOOK,)),
    ),
    Case("XML", TOOLS, f"<tool_call>\n{XML}\n</tool_call>", Answer(calls=(WRITE,))),
    Case("XML without tags", TOOLS, XML, Answer(calls=(WRITE,))),
    Case(
        "XML without the opening tag",
        TOOLS,
        f"I write.\n{XML}\n</tool_call>",
        Answer("I write.", calls=(WRITE,)),
    ),
    Case("XML without arguments", TOOLS, "<function=go>\n</function>", Answer(calls=(GO,))),
    Case("XML twice", TOOLS, f"{XML}\n<function=go></function>", Answer(calls=(WRITE, GO))),
    Case("XML without its end", TOOLS, XML_OPEN + "\n</tool_call>", Answer(calls=(WRITE,))),
    Case("XML cut in a value", TOOLS, XML[:50], Answer(XML[:50])),
    Case("XML cut behind a value", TOOLS, XML_OPEN, Answer(XML_OPEN)),
    Case("XML of another tool", TOOLS, "<function=cook></function>", Answer("<function=cook></function>")),
    Case(
        "XML with a closing tag left out",
        TOOLS,
        XML.replace("a.txt\n</parameter>", "a.txt"),
        Answer(calls=(WRITE,)),
    ),
    Case(
        "XML in XML",
        TOOLS,
        XML.replace("two", "</function>"),
        Answer(calls=(("write_to_file", WRITE[1] | {"content": "one\n</function>"}),)),
    ),
    Case("no XML", TOOLS, "<function=\nlook>", Answer("<function=\nlook>")),
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
                '{"name": "go", "arguments": "b"}',
                '{"name": "go", "arguments": [1]}',
                '{"name": "go", "arguments": {"b": NaN}}',
                '{"name": "go", "arguments": {"b": 1,}}',
                '{"name": "go", "arguments": {"b": 1}]',
                '{"name": "cook", "arguments": {}}',
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
    check_parts(deltas, calls)
    return Answer(
        "".join(delta.content for delta in deltas),
        "".join(delta.thinking for delta in deltas),
        tuple((call.name, call.arguments) for call in calls),
    )


def check_parts(deltas: list[AnswerDelta], calls: list[ToolCall]) -> None:
    """The calls that come in pieces are the same ones."""
    names: dict[int, tuple[str | None, str | None]] = {}
    texts: dict[int, str] = {}
    for part in (part for delta in deltas for part in delta.call_parts):
        assert (part.index in names) == (part.id is None)
        names.setdefault(part.index, (part.id, part.name))
        texts[part.index] = texts.get(part.index, "") + part.arguments
    assert list(texts) == list(range(len(texts)))
    places = {call_id: index for index, (call_id, _) in names.items()}
    for call in calls:
        place = places[call.id]
        assert names[place][1] == call.name
        assert json.loads(texts[place]) == call.arguments


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
    [
        *(
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            "<",
            "</",
            "<t",
            "a",
            " ",
            "\n",
            "é",
            "{}",
            "{",
        ),
        *("```", "```json\n", "[", "]", "}", '"', '{"name": "go"', "<function=go>", "</function>"),
        *(OTHER, BARE_GO, XML),
    ]
)
EXPECTED = st.builds(Expected, thinking=st.booleans(), tools=st.sampled_from([{}, KNOWN]))


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
    """All that is missing are tags, blanks, fences and the calls that were understood."""
    answer = parsed(expected, [output])
    ours, theirs = re.sub(r"\s+", "", output), re.sub(r"\s+", "", answer.thinking + answer.content)
    if not expected.thinking and not expected.tools:
        assert answer.content == output
    assert expected.tools or not answer.calls
    kept = iter(ours)
    assert all(character in kept for character in theirs)
    if not answer.calls:
        assert len(ours) - len(theirs) <= len("<think></think>") * expected.thinking


@given(st.lists(BITS, max_size=8).map("".join))
def test_thinking_has_no_blanks_around_it(output: str) -> None:
    thinking = parsed(INSIDE, [output + "</think>"]).thinking
    assert thinking == thinking.strip()


def test_a_long_call_read_token_by_token() -> None:
    content = r"a line with \"quotes\" and {brackets}\n" * 1000
    written = WRITE_JSON.replace(r"one\ntwo", content), XML.replace("one\ntwo", content)
    wanted = content.replace(r"\"", '"').replace(r"\n", "\n"), content
    for output, text in zip(written, wanted, strict=True):
        answer = parsed(TOOLS, [output[place : place + 4] for place in range(0, len(output), 4)])
        ((name, arguments),) = answer.calls
        assert (name, arguments["content"]) == ("write_to_file", text)


def test_tools_without_a_name_are_no_tools() -> None:
    named = {"type": "function", "function": {"name": "go", "parameters": None}}
    tools = [named, {"type": "web"}, {"function": {}}]
    assert schemas_of(tools) == {"go": {}}
