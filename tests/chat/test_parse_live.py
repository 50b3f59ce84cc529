"""When the parts of an answer come: what is held back, calls in pieces, what the length limit cuts off."""

import pytest

from server.chat.parse import AnswerParser, Expected
from server.domain.chat import AnswerDelta
from tests.chat.outputs import BARE, BOTH, CALL, LOOK, THINKS, TOOLS, XML, XML_OPEN


def test_words_are_not_held_back() -> None:
    parser = AnswerParser(BOTH)
    assert parser.feed("Hello") == (AnswerDelta(content="Hello"),)
    assert parser.feed(" <b") == (AnswerDelta(content=" <b"),)
    assert parser.feed(" <tool") == ()
    assert parser.feed("ing>") == (AnswerDelta(content=" <tooling>"),)


def test_code_and_json_are_not_held_back_for_long() -> None:
    parser = AnswerParser(TOOLS)
    assert parser.feed('{"') == ()
    assert "".join(delta.content for delta in parser.feed('colour": ')) == '{"colour":'
    assert parser.feed("1}\n```py\nx") == (AnswerDelta(content=" 1}\n```py\nx"),)


def test_thinking_is_not_held_back() -> None:
    parser = AnswerParser(THINKS)
    assert parser.feed("<think>\nHm") == (AnswerDelta(thinking="Hm"),)
    assert parser.feed(", so\n") == (AnswerDelta(thinking=", so"),)
    assert parser.feed("</think>\nYes") == (AnswerDelta(content="Yes"),)


def test_a_call_comes_when_it_is_complete() -> None:
    parser = AnswerParser(TOOLS)
    begun, bracket, _ = CALL.partition("}}")
    assert not any(delta.tool_calls for delta in parser.feed(begun + bracket[:1]))
    (delta,) = parser.feed(bracket[1:])
    (call,) = delta.tool_calls
    assert (call.name, call.arguments) == LOOK
    assert call.id
    assert call.id.startswith("call_")


def arguments_of(deltas: tuple[AnswerDelta, ...]) -> str:
    return "".join(part.arguments for delta in deltas for part in delta.call_parts)


def test_the_text_of_a_file_comes_while_it_is_written() -> None:
    parser = AnswerParser(TOOLS)
    begun = parser.feed(
        '<tool_call>\n{"name": "write_to_file", "arguments": {"path": "a.txt", "content": "on'
    )
    assert arguments_of(begun) == '{"path": "a.txt", "content": "on'
    assert arguments_of(parser.feed("e\\")) == "e"
    assert arguments_of(parser.feed("ntwo")) == r"\ntwo"
    assert arguments_of(parser.feed('", "force": "tr')) == '", "force": '
    assert arguments_of(parser.feed('ue"}')) == "true"
    assert arguments_of(parser.feed("}\n</tool_call>")) == "}"


def test_a_call_that_breaks_is_text_and_its_number_is_not_used_again() -> None:
    parser = AnswerParser(TOOLS)
    broken = '{"name": "look", "arguments": {"at": "a" "b"}}\n'
    begun, rest = broken[:40], broken[40:]
    deltas = (*parser.feed(begun), *parser.feed(rest + BARE), *parser.finish())
    assert "".join(delta.content for delta in deltas).strip() == broken.strip()
    assert [(part.index, part.name) for delta in deltas for part in delta.call_parts if part.id] == [
        (0, "look"),
        (1, "look"),
    ]


def parts_of(expected: Expected, pieces: list[str], *, cut: bool) -> tuple[str, list[int]]:
    """The content, and the index of each call that pieces came of."""
    parser = AnswerParser(expected)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    deltas += parser.finish(cut=cut)
    parts = [part for delta in deltas for part in delta.call_parts]
    assert not [delta for delta in deltas if delta.tool_calls]
    return "".join(delta.content for delta in deltas), [part.index for part in parts if part.id]


LIVE_CUT = '<tool_call>\n{"name": "write_to_file", "arguments": {"path": "a", "content": "one two thr'
CUT = [
    *(LIVE_CUT, LIVE_CUT.replace("\n", ""), LIVE_CUT.removeprefix("<tool_call>\n")),
    *("<tool_call>", "<tool_call>\n{", '<tool_call>\n{"na', "```json\n" + BARE[:-5], BARE[:-5], CALL[:30]),
    *(XML[:50], XML_OPEN, f"<tool_call>\n{XML[:50]}", f"[{BARE}, "),
]


@pytest.mark.parametrize("output", CUT)
def test_a_call_that_the_limit_cuts_off_is_no_text(output: str) -> None:
    for place in range(len(output) + 1):
        pieces = ["I write.\n", output[:place], output[place:]]
        content, begun = parts_of(TOOLS, pieces, cut=True)
        assert content == "I write."
        assert begun in ([], [0])


@pytest.mark.parametrize("output", ['{"na', "[1, 2", '{"a": 1', "```json\n{", "a < b", "{"])
def test_what_need_be_no_call_is_text_where_the_limit_cuts_it_off(output: str) -> None:
    assert parts_of(TOOLS, [output], cut=True) == (output, [])


@pytest.mark.parametrize("broken", ['"x": "y", b}}', '"x": "y"]}', '"x": "a", "content": "b" "c"}}'])
def test_a_call_that_breaks_goes_out_as_pieces_but_once(broken: str) -> None:
    output = LIVE_CUT.partition('"path"')[0] + broken
    for size in (1, 7, len(output)):
        pieces = [output[start : start + size] for start in range(0, len(output), size)]
        content, begun = parts_of(TOOLS, pieces, cut=False)
        assert content == output
        assert begun in ([], [0])
