"""Streams by themselves, without a model: their items, their heartbeats, their ends."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.api import http
from server.api.bodies import parse
from server.api.openai.chat_wire import ChatAnswer, ChatBody
from server.api.openai.completions_wire import CompletionAnswer, CompletionBody
from server.api.openai.responses_stream import ResponseAnswer
from server.api.openai.responses_wire import ResponsesBody, ToolName, repeated
from server.api.openai.sse import Answer, streamed
from server.domain.account import Account
from server.domain.chat import AnswerDelta, CallPart, RunOptions, ToolCall
from server.domain.errors import EngineFailed, PromptTooLong, ServiceError
from server.domain.generation import FinishReason, TokenScore, Usage
from server.service.reply import Opening, Reply
from server.service.report import Outcome, Routing
from server.service.running import thinking_length

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
LOOK = ToolCall("eyes.look", {"place": "here"}, "call_1")
PARTS = (CallPart(0, "", "call_1", "eyes.look"), CallPart(0, '{"place":'), CallPart(0, '"here"}'))


def outcome(reason: FinishReason = FinishReason.STOP) -> Outcome:
    routing = Routing(None, None, "why", 7, 5)
    return Outcome(reason, Usage(generated_tokens=3), routing, 11, 13, 99, (), (1,), (2,), thinking_tokens=2)


def new_response(**fields: Any) -> ResponseAnswer:
    body = parse(ResponsesBody, {"model": "m", "input": "Hi", **fields})
    names = {"eyes.look": ToolName("look", "eyes")}
    return ResponseAnswer(repeated(body, RunOptions()), names, secret_thoughts=False)


def events_of(written: bytes) -> list[dict[str, Any]]:
    blocks = written.decode().removesuffix("\n\n").split("\n\n")
    return [json.loads(block.partition("data: ")[2]) for block in blocks]


def all_events(answer: ResponseAnswer, *deltas: AnswerDelta, end: Outcome) -> list[dict[str, Any]]:
    pieces = [piece for delta in deltas for piece in answer.pieces(delta)]
    return events_of(b"".join([*answer.opening(), *pieces, *answer.closing(end)]))


def test_thoughts_words_and_calls_are_items_in_their_order() -> None:
    deltas = (
        AnswerDelta(thinking="Hm"),
        AnswerDelta(thinking="m."),
        AnswerDelta("I "),
        AnswerDelta("look."),
        *(AnswerDelta(call_parts=(part,)) for part in PARTS),
        AnswerDelta(tool_calls=(LOOK,)),
        AnswerDelta(tool_calls=(ToolCall("wait", {}, "call_2"),)),
    )
    events = all_events(new_response(), *deltas, end=outcome())
    added = [event for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in added] == [0, 1, 2, 3]
    assert [event["item"]["id"] for event in added] == [event["item"]["id"] for event in done]
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == ("response.completed", "completed")
    assert last["response"]["output"] == [event["item"] for event in done]
    thought, message, look, wait = last["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Hmm."}]
    assert message["content"][0]["text"] == "I look."
    assert (look["name"], look["namespace"], look["arguments"]) == ("look", "eyes", '{"place":"here"}')
    assert (wait["name"], wait["arguments"], wait["call_id"]) == ("wait", "{}", "call_2")
    assert all(item["status"] == "completed" for item in last["response"]["output"])
    assert last["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


def test_the_pieces_of_a_call_are_what_came() -> None:
    deltas = (AnswerDelta(call_parts=PARTS), AnswerDelta(tool_calls=(LOOK,)))
    events = all_events(new_response(), *deltas, end=outcome())
    parts = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert parts == ['{"place":', '"here"}']
    [end] = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert (end["arguments"], end["name"]) == ("".join(parts), "look")


def test_a_call_that_was_cut_off_is_incomplete() -> None:
    deltas = (AnswerDelta(call_parts=PARTS[:2]),)
    last = all_events(new_response(), *deltas, end=outcome(FinishReason.LENGTH))[-1]["response"]
    assert (last["status"], last["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (last["output"][0]["status"], last["output"][0]["arguments"]) == ("incomplete", '{"place":')


@pytest.mark.parametrize("whole", [False, True])
def test_a_whole_call_before_the_limit_is_complete(whole: bool) -> None:
    everything = AnswerDelta(tool_calls=(LOOK,), call_parts=PARTS)
    end = outcome(FinishReason.LENGTH)
    answer = new_response()
    last = answer.whole(everything, end) if whole else all_events(answer, everything, end=end)[-1]["response"]
    assert last["status"] == "incomplete"
    assert [item["status"] for item in last["output"]] == ["completed"]


def test_an_empty_answer_is_an_empty_message() -> None:
    [item] = new_response().whole(AnswerDelta(), outcome())["output"]
    assert item["content"][0]["text"] == ""


def test_a_chat_says_that_it_was_cut_even_with_a_call_in_it() -> None:
    everything = AnswerDelta(tool_calls=(LOOK,))
    answer = ChatAnswer(parse(ChatBody, BODY))
    assert answer.whole(everything, outcome())["choices"][0]["finish_reason"] == "tool_calls"
    assert answer.whole(everything, outcome(FinishReason.LENGTH))["choices"][0]["finish_reason"] == "length"


def test_no_logarithm_is_infinite() -> None:
    score = TokenScore(1, b"\xf0\x9f", float("-inf"), (TokenScore(2, b"a", float("-inf")),))
    choice = ChatAnswer(parse(ChatBody, BODY)).whole(AnswerDelta("x", scores=(score,)), outcome())["choices"][
        0
    ]
    assert choice["logprobs"]["content"] == [
        {
            "token": "\ufffd",
            "logprob": -9999.0,
            "bytes": [0xF0, 0x9F],
            "top_logprobs": [{"token": "a", "logprob": -9999.0, "bytes": [97]}],
        }
    ]


def test_scores_without_words_make_a_chunk_of_a_chat_and_none_of_a_response() -> None:
    delta = AnswerDelta(scores=(TokenScore(1, b"a", -1.0),))
    [chunk] = [events_of(piece)[0] for piece in ChatAnswer(parse(ChatBody, BODY)).pieces(delta)]
    assert [told["bytes"] for told in chunk["choices"][0]["logprobs"]["content"]] == [[97]]
    assert list(new_response().pieces(delta)) == []


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        ([], 0),
        ([b"Hm", b".", b"</think>", b"Yes"], 3),
        ([b"Hm</th", b"i", b"nk>\n", b"Yes"], 3),
        ([b"Hm", b"."], 2),
    ],
)
def test_thoughts_are_counted_up_to_their_closing_tag(pieces: list[bytes], tokens: int) -> None:
    assert thinking_length(pieces) == tokens


class Connection:
    """An ASGI server's side of a response whose client stays."""

    def __init__(self) -> None:
        self.written = b""

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(self, message: Any) -> None:
        self.written += message.get("body", b"")


def sent(answer: Answer, parts: AsyncIterator[AnswerDelta | Outcome]) -> bytes:
    async def run() -> bytes:
        connection = Connection()
        reply = Reply(Opening(None, "why", 7), parts, contextlib.AsyncExitStack())
        scope = {"type": "http", "state": {"account": Account()}}
        await streamed(reply, answer)(scope, connection.receive, connection.send)
        return connection.written

    return asyncio.run(run())


async def broken(error: ServiceError) -> AsyncIterator[AnswerDelta | Outcome]:
    yield AnswerDelta("Ye")
    raise error


@pytest.mark.parametrize(
    "answer",
    [
        ChatAnswer(parse(ChatBody, BODY)),
        CompletionAnswer(parse(CompletionBody, {"model": "m", "prompt": "Hi"})),
    ],
    ids=["chat", "completion"],
)
def test_a_completion_that_breaks_off_ends_with_its_error(answer: Answer) -> None:
    written = sent(answer, broken(EngineFailed("the engine broke")))
    *_, word, last = events_of(written)
    assert "Ye" in json.dumps(word)
    assert last["error"]["message"] == "the engine broke"
    assert last["error"]["type"] == "api_error"
    assert b"[DONE]" not in written


@pytest.mark.parametrize(
    ("error", "code"),
    [(EngineFailed("broken"), "server_error"), (PromptTooLong(9, 8), "context_length_exceeded")],
)
def test_a_response_that_breaks_off_is_failed(error: ServiceError, code: str) -> None:
    events = events_of(sent(new_response(), broken(error)))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": code, "message": str(error)}


def test_silence_is_broken_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEARTBEAT_S", 0.05)

    async def slow() -> AsyncIterator[AnswerDelta | Outcome]:
        await asyncio.sleep(0.2)
        yield outcome()

    written = sent(ChatAnswer(parse(ChatBody, BODY)), slow())
    opening, beat, *_ = written.split(b"\n\n")
    assert b'"role":"assistant"' in opening
    assert beat == b": ping"
    assert written.endswith(b"data: [DONE]\n\n")


def test_a_line_end_of_unicode_does_not_end_an_event() -> None:
    [piece] = ChatAnswer(parse(ChatBody, BODY)).pieces(AnswerDelta("a\u2028\x85\r\nb"))
    assert len(piece.decode().splitlines()) == 2
    assert events_of(piece)[0]["choices"][0]["delta"]["content"] == "a\u2028\x85\r\nb"
