"""Answers as blocks and as events, without HTTP."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.anthropic.answer import Content, ending, last_usage
from server.api.anthropic.stream import EventMaker, event_bytes
from server.domain.chat import AnswerDelta, CallPart, ChatRequest, RunOptions, ToolCall
from server.domain.generation import FinishReason, Usage
from server.service.report import Outcome, Routing
from tests.api.anthropic.asking import rebuilt

OPTIONS = RunOptions(max_tokens=9, stop=("END",))


def outcome(
    reason: FinishReason = FinishReason.STOP, usage: Usage | None = None, stop: str | None = None
) -> Outcome:
    routing = Routing(None, None, "why", tokens_received=7, tokens_sent=5)
    return Outcome(reason, usage or Usage(5, 2, 3), routing, 1, 2, 99, (), (1,), (2,), stop)


def streamed(*deltas: AnswerDelta, end: Outcome | None = None) -> list[dict[str, Any]]:
    maker = EventMaker(ChatRequest("m", (), options=OPTIONS))
    events = [*maker.begin(7)]
    for delta in deltas:
        events += maker.events(delta)
    return [*events, *maker.end(end or outcome())]


def content_of(*deltas: AnswerDelta) -> list[dict[str, Any]]:
    content = Content()
    for delta in deltas:
        content.add(delta)
    return content.blocks


def call(number: int, **arguments: Any) -> ToolCall:
    return ToolCall("look", arguments, f"call_{number}")


def in_parts(whole: ToolCall, pieces: int) -> tuple[AnswerDelta, ...]:
    """A call as the parser hands it out while the model writes it: piece by piece, then whole."""
    text = json.dumps(dict(whole.arguments))
    step = -(-len(text) // pieces)
    rest = [CallPart(0, text[place : place + step]) for place in range(0, len(text), step)]
    parts = [CallPart(0, "", whole.id, whole.name), *rest]
    return (*(AnswerDelta(call_parts=(part,)) for part in parts), AnswerDelta(tool_calls=(whole,)))


def test_a_stream_event_by_event() -> None:
    events = streamed(AnswerDelta(thinking="hm"), AnswerDelta("Hi"), AnswerDelta(tool_calls=(call(1, a=2),)))
    start = events[0]["message"]
    assert start["usage"]["input_tokens"] == 7
    assert start["usage"]["output_tokens"] == 0
    assert events[1:-2] == [
        {"type": "ping"},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "call_1", "name": "look", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": '{"a":2}'},
        },
        {"type": "content_block_stop", "index": 2},
    ]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["llm_optimizer"]["tokens_sent"] == 5


PIECES = {
    "thinking": AnswerDelta(thinking="hm "),
    "text": AnswerDelta("word "),
    "call": AnswerDelta(tool_calls=(call(1, a=[1, "é"]),)),
    "calls": AnswerDelta(tool_calls=(call(2), call(3, b=None))),
    "everything": AnswerDelta("x", "y", (call(4, c={}),)),
    "nothing": AnswerDelta(),
}


@pytest.mark.parametrize("order", [*itertools.permutations(PIECES, 3), *((name,) for name in PIECES), ()])
def test_pieces_in_any_order_rebuild_to_the_answer(order: tuple[str, ...]) -> None:
    deltas = [PIECES[name] for name in order]
    assert rebuilt(streamed(*deltas))["content"] == content_of(*deltas)


def test_neighbours_of_one_kind_are_one_block() -> None:
    text = AnswerDelta("a")
    assert [block["type"] for block in content_of(text, text, PIECES["call"], text)] == [
        *("text", "tool_use", "text")
    ]


def test_an_answer_without_a_word_has_an_empty_block() -> None:
    assert content_of() == rebuilt(streamed())["content"] == [{"type": "text", "text": ""}]


@pytest.mark.parametrize("pieces", [1, 2, 9])
def test_a_call_that_comes_in_parts_is_not_told_twice(pieces: int) -> None:
    first, second = call(1, path="a.txt", text="x" * 30), call(2, path="b.txt")
    deltas = (AnswerDelta("so"), *in_parts(first, pieces), *in_parts(second, pieces), AnswerDelta("done"))
    events = streamed(*deltas)
    assert rebuilt(events)["content"] == content_of(*deltas)
    parts = [event for event in events if event.get("delta", {}).get("type") == "input_json_delta"]
    assert len(parts) == 2 * pieces
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_calls_in_parts_and_calls_at_once_may_follow_each_other() -> None:
    deltas = (*in_parts(call(1, a=1), 2), AnswerDelta(tool_calls=(call(2, a=2),)), *in_parts(call(3), 1))
    assert rebuilt(streamed(*deltas))["content"] == content_of(*deltas)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
DELTAS = st.one_of(
    st.builds(AnswerDelta, content=st.text(max_size=5)),
    st.builds(AnswerDelta, thinking=st.text(max_size=5)),
    st.dictionaries(st.text(max_size=3), JSON, max_size=3),
)


@given(st.lists(DELTAS, max_size=8), st.integers(0, 4))
def test_a_stream_rebuilds_to_the_unstreamed_answer(pieces: list[Any], parts: int) -> None:
    deltas: list[AnswerDelta] = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, AnswerDelta):
            deltas.append(piece)
        else:
            whole = ToolCall("look", piece, f"call_{number}")
            deltas += in_parts(whole, parts) if parts else (AnswerDelta(tool_calls=(whole,)),)
    message = rebuilt(streamed(*deltas))
    assert message["content"] == content_of(*deltas)
    called = any(isinstance(piece, dict) for piece in pieces)
    assert message["stop_reason"] == ("tool_use" if called else "end_turn")


def test_an_event_is_one_line_of_data_for_every_reader() -> None:
    event = {"type": "x", "text": "a\n\r\u2028\u0085b\n\n"}
    name, data, *rest = event_bytes(event).decode().splitlines()
    assert (name, rest) == ("event: x", [""])
    assert json.loads(data.removeprefix("data: ")) == event


STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


@pytest.mark.parametrize(
    ("end", "called", "reason", "sequence"),
    [
        (outcome(STOP), False, "end_turn", None),
        (outcome(STOP), True, "tool_use", None),
        (outcome(STOP, stop="END"), False, "stop_sequence", "END"),
        (outcome(STOP, stop="END"), True, "tool_use", None),
        (outcome(STOP, stop="the model's own"), False, "end_turn", None),
        (outcome(LENGTH, Usage(5, 2, 9)), False, "max_tokens", None),
        (outcome(LENGTH, Usage(5, 2, 9)), True, "max_tokens", None),
        (outcome(LENGTH, Usage(5, 2, 8)), False, "model_context_window_exceeded", None),
    ],
)
def test_why_an_answer_ended(end: Outcome, called: bool, reason: str, sequence: str | None) -> None:
    assert ending(end, OPTIONS, called=called) == {"stop_reason": reason, "stop_sequence": sequence}


@pytest.mark.parametrize(("cached", "read"), [(0, 7), (2, 5), (6, 1), (7, 1), (9, 1)])
def test_read_and_cached_tokens_are_the_whole_prompt(cached: int, read: int) -> None:
    usage = last_usage(outcome(usage=Usage(5, cached, 3)))
    assert (usage["input_tokens"], usage["output_tokens"]) == (read, 3)
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == 7
    assert usage["cache_creation_input_tokens"] == 0
