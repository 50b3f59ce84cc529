"""A model that runs elsewhere, over real sockets: answers, hang-ups, queue, dialects."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.domain.chat import AnswerDelta, AnswerEnd, CompletionRequest, Message, RunOptions, ToolCall
from server.domain.errors import (
    InvalidRequest,
    PromptTooLong,
    QueueFull,
    Unloaded,
)
from server.domain.generation import FinishReason
from server.remote import Api, RemoteModel
from tests.remote.asking import HI, TOOL, answer, spec_of, text_of, until, with_model
from tests.remote.scripted import Call, Scripted


def test_an_answer_with_its_figures(far: Scripted) -> None:
    async def work(model: RemoteModel) -> tuple[list[Any], Any, Any]:
        return await answer(model), model.figures, model.state

    parts, figures, state = with_model(spec_of(far), work)
    end = parts[-1]
    assert isinstance(end, AnswerEnd)
    assert text_of(parts) == "Hello there"
    assert end.reason is FinishReason.STOP
    assert (end.usage.prompt_tokens, end.usage.cached_tokens, end.usage.generated_tokens) == (11, 4, 2)
    assert end.usage.prompt_counted
    assert (figures.requests, figures.prompt_tokens, figures.generated_tokens) == (1, 11, 2)
    assert state.is_up
    assert far.asked[0][0] == "/v1/chat/completions"


def test_the_key_goes_along_and_is_shown_nowhere(far: Scripted) -> None:
    spec = spec_of(far, key="secret-key")
    with_model(spec, answer)
    assert far.headers_seen[0]["authorization"] == "Bearer secret-key"
    assert far.headers_seen[0]["x-llm-optimizer-policy"] == "direct"
    assert "secret" not in repr(spec)


def test_hanging_up_is_passed_on(far: Scripted) -> None:
    gone = threading.Event()

    def goes_on(call: Call) -> None:
        call.begin()
        try:
            while True:
                call.words("more ")
                time.sleep(0.005)
        except OSError:
            gone.set()
            raise

    far.scripts = [goes_on]

    async def work(model: RemoteModel) -> None:
        run = await (await asyncio.to_thread(model.prompt, HI, (), None)).submit(RunOptions())
        parts: AsyncIterator[Any] = run.parts()
        assert (await anext(parts)).content == "more "
        assert model.state.running == 1
        run.close()
        assert await asyncio.to_thread(gone.wait, 5)
        assert model.state.running == 0

    with_model(spec_of(far), work)


def test_who_closes_it_ends_what_is_under_way(far: Scripted) -> None:
    release = threading.Event()

    def waits(call: Call) -> None:
        call.begin()
        call.words("a")
        release.wait(10)

    far.scripts = [waits]

    async def work(model: RemoteModel) -> None:
        run = await (await asyncio.to_thread(model.prompt, HI, (), None)).submit(RunOptions())
        parts = run.parts()
        assert (await anext(parts)).content == "a"
        await model.close()
        with pytest.raises(Unloaded):
            await anext(parts)

    try:
        with_model(spec_of(far), work)
    finally:
        release.set()


def test_slots_and_queue_are_kept(far: Scripted) -> None:
    release = threading.Event()

    def waits(call: Call) -> None:
        call.begin()
        call.words("a")
        release.wait(10)
        call.end()

    far.scripts = [waits]

    async def work(model: RemoteModel) -> None:
        first = asyncio.create_task(answer(model))
        await until(lambda: bool(far.asked))
        second = asyncio.create_task(answer(model))
        await until(lambda: bool(model.state.queued))
        with pytest.raises(QueueFull):
            model.refuse_when_full()
        assert len(far.asked) == 1
        release.set()
        assert text_of(await first) == text_of(await second) == "a"

    with_model(spec_of(far, slots=1, queue=1), work)


def test_calls_thinking_and_words(far: Scripted) -> None:
    def calls(call: Call) -> None:
        call.begin()
        call.event({"choices": [{"delta": {"reasoning_content": "Rome, then."}}]})
        for piece in (
            {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"city": '}},
            {"index": 0, "function": {"arguments": '"Rome"}'}},
        ):
            call.event({"choices": [{"delta": {"tool_calls": [piece]}}]})
        call.end("tool_calls")

    far.scripts = [calls]
    parts = with_model(spec_of(far), lambda model: answer(model, tools=(TOOL,)))
    deltas = [part for part in parts if isinstance(part, AnswerDelta)]
    assert "".join(delta.thinking for delta in deltas) == "Rome, then."
    assert [call for delta in deltas for call in delta.tool_calls] == [
        ToolCall("weather", {"city": "Rome"}, "c1")
    ]
    assert far.asked[0][1]["tools"] == [TOOL]


def test_calls_and_thinking_that_the_server_leaves_in_the_text(far: Scripted) -> None:
    def raw(call: Call) -> None:
        call.begin()
        for piece in (
            "<thi",
            "nk>Rome.</think>",
            '<tool_call>{"name": "weather", ',
            '"arguments": {}}</tool_call>',
        ):
            call.words(piece)
        call.end()

    far.scripts = [raw]
    spec = spec_of(far, abilities=frozenset({"completion", "tools", "thinking"}))
    parts = with_model(spec, lambda model: answer(model, tools=(TOOL,), think=True))
    deltas = [part for part in parts if isinstance(part, AnswerDelta)]
    assert "".join(delta.thinking for delta in deltas) == "Rome."
    assert [call.name for delta in deltas for call in delta.tool_calls] == ["weather"]
    assert text_of(parts) == ""


def test_ollamas_dialect(far: Scripted) -> None:
    def ollama(call: Call) -> None:
        call.begin()
        for line in (
            b'{"message": {"role": "assistant", "content": "Hel"}, "done": false}\n',
            b'{"message": {"content": "lo"}, "done": true, "done_reason": "stop", "prompt_eval_count": 9, '
            b'"eval_count": 2}\n',
        ):
            call.wfile.write(line)

    far.scripts = [ollama]
    far.looks = lambda call: call.status(200, {"models": [{"name": "far:latest"}]})

    async def work(model: RemoteModel) -> list[Any]:
        names = await model.look()
        assert model.is_among(names)
        return await answer(model)

    parts = with_model(spec_of(far, url=far.url, api=Api.OLLAMA), work)
    assert text_of(parts) == "Hello"
    assert parts[-1].usage.prompt_tokens == 9
    assert far.asked[0][0] == "/api/chat"


def test_what_does_not_fit_is_refused_here(far: Scripted) -> None:
    async def work(model: RemoteModel) -> None:
        await answer(model, messages=(Message("user", "word " * 500),))

    with pytest.raises(PromptTooLong):
        with_model(spec_of(far), work)
    assert far.asked == []


def test_what_cannot_be_passed_on_is_refused(far: Scripted) -> None:
    async def work(model: RemoteModel) -> None:
        with pytest.raises(InvalidRequest, match="logprobs"):
            await answer(model, RunOptions(alternatives=2))
        with pytest.raises(InvalidRequest, match="context"):
            model.completion(CompletionRequest("far", "Hi", context=(1, 2)))
        with pytest.raises(InvalidRequest, match="insert"):
            model.completion(CompletionRequest("far", "Hi", suffix="there"))

    with_model(spec_of(far), work)
