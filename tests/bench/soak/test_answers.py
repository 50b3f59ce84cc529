"""What the soak thinks of answers, in each dialect: made-up ones, and those of a real server."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bench.soak.answers import judged, says_something
from bench.soak.asking import Asker
from bench.soak.badness import INVALID, draw_bad_plan
from bench.soak.drawing import ASKING, TOOL, Wish, anthropic, count_tokens, openai_chat, tokenize
from bench.soak.findings import Findings
from bench.soak.plans import Answer, Plan, Told, Wire
from tests.running import RunningServer

LAST = {
    "model": "m",
    "done": True,
    "done_reason": "stop",
    "total_duration": 1,
    "load_duration": 0,
    "prompt_eval_count": 1,
    "prompt_eval_duration": 1,
    "eval_count": 2,
    "eval_duration": 1,
}
PIECE = {"model": "m", "done": False, "response": "a"}


def plan(wire: Wire, **changes: Any) -> Plan:
    return replace(Plan("k", "/p", {"model": "m"}, wire, stream=True, most_tokens=2), **changes)


def written(*chunks: Any) -> tuple[str, ...]:
    return tuple(chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks)


def sse(*chunks: Any) -> tuple[str, ...]:
    return tuple(line for text in written(*chunks) for line in (f"data: {text}", ""))


def faults(*chunks: Any, stream: bool = True, complete: bool = True, status: int = 200) -> str:
    answer = Answer(status, written(*chunks), complete)
    return " ".join(judged(plan(Wire.OLLAMA, stream=stream), answer).faults)


def test_good_answers() -> None:
    assert faults(PIECE, PIECE, LAST) == ""
    assert faults(LAST, stream=False) == ""
    assert faults(PIECE, complete=False) == ""
    assert faults(complete=False) == ""


@pytest.mark.parametrize(
    ("chunks", "fault"),
    [
        ([], "does not end"),
        ([PIECE], "does not end"),
        ([LAST, PIECE], "does not end"),
        ([LAST, LAST], "does not end"),
        ([PIECE, "{"], "no JSON"),
        ([PIECE, ""], "no JSON"),
        (["[]"], "no JSON object"),
        ([PIECE, {"error": "broken"}], "broken"),
        ([{**LAST, "model": "n"}], "another model"),
        ([{**LAST, "done_reason": "load"}], "done_reason load"),
        ([{**LAST, "eval_count": 3}], "3 tokens of 2"),
        ([{**LAST, "eval_count": 0}], "0 tokens of 2"),
        ([{**LAST, "prompt_eval_count": 0}], "no tokens of the prompt"),
        ([{**LAST, "eval_duration": None}], "no eval_duration"),
    ],
)
def test_bad_answers(chunks: list[Any], fault: str) -> None:
    assert fault in faults(*chunks)


def test_a_stream_where_none_was_wanted_and_a_bad_status() -> None:
    assert "without a stream" in faults(PIECE, LAST, stream=False)
    assert faults('{"error":"busy"}', status=503) == 'status 503: {"error":"busy"}'


def test_an_error_counts_after_a_hang_up_too() -> None:
    assert faults({"error": "broken"}, complete=False)
    answer = Answer(200, sse({"error": {"message": "broken"}}), complete=False)
    assert "broken" in judged(plan(Wire.OPENAI), answer).faults[0]


def chunk(reason: str | None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def call(name: str | None, arguments: str) -> dict[str, Any]:
    return chunk(None, tool_calls=[{"index": 0, "function": {"name": name, "arguments": arguments}}])


def test_a_stream_of_openai() -> None:
    good = sse(chunk(None, content="a"), chunk("length"), USAGE, "[DONE]")
    assert judged(plan(Wire.OPENAI), Answer(200, good)) == Told((), "length", 3, 2)
    assert "does not end with" in judged(plan(Wire.OPENAI), Answer(200, good[:-2])).faults[0]
    assert "of the form" in judged(plan(Wire.OPENAI), Answer(200, sse({}, "[DONE]"))).faults[0]
    unended = sse(chunk(None, content="a"), USAGE, "[DONE]")
    assert judged(plan(Wire.OPENAI), Answer(200, unended)).faults == ("it ends with []",)


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ([call(TOOL, '{"city":'), call(None, ' "Rome"}')], ""),
        ([call("other", '{"city": "Rome"}')], "called other"),
        ([call(TOOL, '{"town": "Rome"}')], "called look_up"),
        ([call(TOOL, '{"city"')], "no JSON"),
        ([], "no call"),
    ],
)
def test_calls_that_were_demanded(pieces: list[Any], fault: str) -> None:
    lines = sse(*pieces, chunk("tool_calls"), USAGE, "[DONE]")
    found = " ".join(judged(plan(Wire.OPENAI, tool=TOOL), Answer(200, lines)).faults)
    assert fault in found
    assert bool(fault) == bool(found)


def test_forms_are_held_against_what_they_ask_for() -> None:
    def filled(text: str, reason: str = "stop") -> tuple[str, ...]:
        lines = written({**PIECE, "response": text}, {**LAST, "done_reason": reason})
        return judged(plan(Wire.OLLAMA, formed=True), Answer(200, lines)).faults

    assert filled('{"name": "a", "age": 3}') == ()
    assert "not of its form" in filled('{"name": "a", "age": -3}')[0]
    assert "no JSON" in filled('{"name": "a"')[0]
    assert filled('{"name": "a"', "length") == ()


def test_a_stream_of_anthropic() -> None:
    start, stop = {"type": "message_start"}, {"type": "message_stop"}
    ending = {
        "type": "message_delta",
        "delta": {"stop_reason": "max_tokens"},
        "usage": {"input_tokens": 1, "cache_read_input_tokens": 4, "output_tokens": 2},
    }
    good = Answer(200, sse(start, {"type": "ping"}, ending, stop))
    assert judged(plan(Wire.ANTHROPIC), good) == Told((), "length", 5, 2)
    assert "events are" in judged(plan(Wire.ANTHROPIC), Answer(200, sse(start, ending))).faults[0]


def test_events_of_responses_are_numbered() -> None:
    usage = {"input_tokens": 3, "output_tokens": 1}
    last = {"response": {"status": "completed", "output": [], "usage": usage}}
    good = sse({"sequence_number": 0}, {"sequence_number": 1, **last})
    assert judged(plan(Wire.RESPONSES), Answer(200, good)) == Told((), "ok", 3, 1)
    gap = sse({"sequence_number": 0}, {"sequence_number": 2, **last})
    assert "numbered" in judged(plan(Wire.RESPONSES), Answer(200, gap)).faults[0]


def test_vectors_are_as_many_as_texts_and_of_length_one() -> None:
    asked = Plan("k", "/p", {"model": "m", "input": ["a", "b"]}, Wire.EMBED)

    def found(*vectors: list[float]) -> str:
        body = json.dumps({"embeddings": vectors, "prompt_eval_count": 1})
        return " ".join(judged(asked, Answer(200, (body,))).faults)

    assert found([1.0, 0.0], [0.6, 0.8]) == ""
    assert "1 vectors" in found([1.0, 0.0])
    assert "length" in found([1.0, 0.0], [0.6, float("nan")])


@pytest.mark.parametrize(
    ("wire", "body", "good"),
    [
        (Wire.OLLAMA, {"error": "x"}, True),
        (Wire.OLLAMA, {"error": {"message": "x"}}, False),
        (Wire.OPENAI, {"error": {"message": "x", "type": "y"}}, True),
        (Wire.OPENAI, {"error": "x"}, False),
        (Wire.ANTHROPIC, {"type": "error", "error": {"message": "x"}}, True),
        (Wire.ANTHROPIC, {"error": {"message": "x"}}, False),
    ],
)
def test_errors_must_be_of_their_dialect(wire: Wire, body: dict[str, Any], good: bool) -> None:
    told = judged(plan(wire, expected=INVALID), Answer(400, written(body)))
    assert (told.faults == ()) is good
    assert good is False or told.outcome == "invalid"


@pytest.mark.parametrize(
    ("wire", "line", "said"),
    [
        (Wire.OLLAMA, '{"response":"a"}', True),
        (Wire.OLLAMA, '{"message":{"content":"a"}}', True),
        (Wire.OLLAMA, '{"message":{"content":""},"done":true}', True),
        (Wire.OLLAMA, '{"message":{"content":""},"done":false}', False),
        (Wire.OLLAMA, "{", False),
        (Wire.OLLAMA, "[]", False),
        (Wire.OPENAI, 'data: {"choices":[{"delta":{"content":"a"}}]}', True),
        (Wire.OPENAI, 'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}', False),
        (Wire.OPENAI, ": ping", False),
        (Wire.ANTHROPIC, 'data: {"type":"content_block_delta"}', True),
        (Wire.ANTHROPIC, 'data: {"type":"ping"}', False),
        (Wire.RESPONSES, 'data: {"type":"response.output_text.delta"}', True),
        (Wire.RESPONSES, 'data: {"type":"response.created"}', False),
    ],
)
def test_the_first_token_is_not_the_first_line(wire: Wire, line: str, said: bool) -> None:
    assert says_something(wire, line) == said


def short_wish(*, stream: bool, tooled: bool = False) -> Wish:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rain?"}]
    return Wish(
        model="smollm2:135m",
        words=["rain"],
        messages=messages,
        stream=stream,
        most_tokens=40 if tooled else 2,
        temperature=0,
        formed=False,
        tooled=tooled,
        raw=stream,
    )


def asked(running: RunningServer, *plans: Plan) -> Findings:
    async def all_of_them() -> Findings:
        asker = Asker(running.url, {}, Findings())
        for one in plans:
            await asker.ask(one)
        await asker.aclose()
        return asker.findings

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("kind", [*ASKING, count_tokens, tokenize])
def test_what_the_service_answers_is_right(server: RunningServer, kind: Callable[[Wish], Plan]) -> None:
    findings = asked(server, kind(short_wish(stream=True)), kind(short_wish(stream=False)))
    assert findings.errors == {}
    assert findings.counted.total() == 2


def test_calls_of_the_service_are_right(skilled_server: RunningServer) -> None:
    kinds = ((openai_chat, True), (anthropic, False))
    plans = [kind(short_wish(stream=stream, tooled=True)) for kind, stream in kinds]
    findings = asked(skilled_server, *plans)
    assert findings.errors == {}
    assert {outcome for _, outcome in findings.counted} == {"ok"}


def test_bad_input_gets_what_it_should(server: RunningServer) -> None:
    dice = random.Random(3)  # noqa: S311
    kinds: dict[str, Plan] = {}
    for _ in range(200):
        one = draw_bad_plan(dice, "smollm2:135m", keys=False, body_bytes=None)
        kinds.setdefault(one.kind, one)
    assert len(kinds) == 12
    findings = asked(server, *kinds.values())
    assert findings.errors == {}
    assert {became for _, became in findings.outcomes} == {"refused"}
