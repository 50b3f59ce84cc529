"""Sessions from a seed, recorded ones, and what both cost to read."""

import json
from pathlib import Path

from bench.fidelity.anchors import Group, anchors_held, anchors_of
from bench.fidelity.generated import generated
from bench.fidelity.methods import Scale, shortened
from bench.fidelity.prefill import CHUNK_TOKENS, naive, naive_session, prefilled
from bench.fidelity.protection import broken_protocol
from bench.fidelity.sessions import Request, begins_with, recorded_sessions, session_of, with_answers
from server.domain.chat import Message
from server.routing.results import Kind, results_of
from server.routing.squeeze import Marks
from tests.bench.test_fidelity_recall import SESSION


def tokens(text: str) -> int:
    return len(text) // 3


SCALE = Scale(tokens, lambda _: 100)


def test_a_seed_gives_the_same_session_and_another_seed_another() -> None:
    assert generated(1, 9_000, tokens) == generated(1, 9_000, tokens)
    assert generated(1, 9_000, tokens) != generated(2, 9_000, tokens)


def test_a_session_is_as_long_as_it_was_asked_for() -> None:
    for wanted in (4_000, 45_000, 90_000):
        size = SCALE.tokens(generated(1, wanted, tokens))
        assert wanted <= size < wanted + 20_000


def test_every_call_is_answered_and_everything_occurs() -> None:
    messages = generated(1, 45_000, tokens).messages

    calls = [call.id for message in messages for call in message.tool_calls]
    assert calls == [message.tool_call_id for message in messages if message.role == "tool"]
    kinds = {result.kind for result in results_of(messages)}
    assert kinds == {Kind.FILE, Kind.EDIT, Kind.OUTPUT}
    assert list(anchors_of(messages))


def test_without_edits_no_file_is_read_twice() -> None:
    subjects = [
        result.subject
        for result in results_of(generated(1, 45_000, tokens, edits=False).messages)
        if result.kind is not Kind.OUTPUT
    ]
    assert len(set(subjects)) == len(subjects)


def test_a_long_session_goes_on_in_a_small_window() -> None:
    session = session_of("long", generated(1, 45_000, tokens))
    for request in session.requests:
        squeezed = shortened(request, Marks.of(16_384), SCALE)
        assert SCALE.tokens(request, squeezed.messages) <= 16_384 - 512
        assert not broken_protocol(request.messages, squeezed.messages)


def test_requests_of_a_conversation_grow_answer_by_answer() -> None:
    session = session_of("any", Request(SESSION))

    assert [len(request.messages) for request in session.requests] == [1, 3, 5, 7]
    assert all(
        begins_with(later.messages, earlier.messages)
        for earlier, later in zip(session.requests, session.requests[1:], strict=False)
    )
    assert [answer for _, answer in with_answers(session)] == [SESSION[1], SESSION[3], SESSION[5]]


def test_recorded_requests_keep_their_ids(tmp_path: Path) -> None:
    call = {"id": "c1", "function": {"name": "read", "arguments": {"path": "a.py"}}}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "x = 1", "tool_call_id": "c1"},
    ]
    (tmp_path / "one").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "one" / "002.json").write_text(json.dumps({"messages": messages, "tools": []}))
    (tmp_path / "one" / "002.response.json").write_text("[]")

    (session,) = recorded_sessions(tmp_path)
    assert session.name == "one"
    assert session.longest.messages[2].tool_call_id == session.longest.messages[1].tool_calls[0].id == "c1"


def test_anchors_are_those_of_calls_and_of_search_blocks() -> None:
    block = "<diff>\n------- SEARCH\nold words\n=======\nnew words\n+++++++ REPLACE\n</diff>"
    anchors = list(anchors_of([Message("user", "a"), Message("assistant", block)]))

    assert [(anchor.message, anchor.text) for anchor in anchors] == [(1, "old words")]


def test_an_anchor_that_gave_way_is_not_held() -> None:
    conversation = generated(2, 45_000, tokens)
    every = anchors_held(conversation, Marks.of(10**6), SCALE)
    few = anchors_held(conversation, Marks.of(12_000), SCALE)

    assert sum(tally.all for tally in every.values()) == sum(tally.all for tally in few.values()) > 0
    assert all(tally.share == 1 for tally in every.values())
    assert any(tally.share < 1 for group, tally in few.items() if group is not Group.THROUGHOUT)
    assert few[Group.THROUGHOUT].share == 1


def test_a_shared_beginning_is_read_once() -> None:
    assert prefilled([[1, 2, 3], [1, 2, 3, 4], [1, 9, 3, 4, 5], [1, 9]]) == [3, 1, 4, 0]


def test_the_naive_pipeline_goes_by_the_seeds_thresholds() -> None:
    def cost(characters: int) -> tuple[int, int]:
        request = Request((Message("user", "Look."), Message("assistant", "x" * characters)))
        found = naive(request, tokens, characters // 3)
        return found.calls, found.helper_read

    assert cost(1_000) == (0, 0)
    assert cost(12_000)[0] == 1
    calls, read = cost(60_000)
    assert calls == 60_000 // 3 // CHUNK_TOKENS + 1 + 1
    assert read > 60_000 // 3


def test_direct_turns_of_the_naive_pipeline_share_their_beginning() -> None:
    short, longer, long = (
        Request((Message("user", "Look."), Message("assistant", "x" * size))) for size in (300, 600, 60_000)
    )
    costs = naive_session([short, longer, long, longer], tokens, SCALE.tokens)

    assert costs[0].generator_read == SCALE.tokens(short)
    assert costs[1].generator_read == SCALE.tokens(longer) - SCALE.tokens(short)
    assert costs[2].calls > 0
    assert costs[3].generator_read == SCALE.tokens(longer)
