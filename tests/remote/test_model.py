"""A model that runs elsewhere, over real sockets, with all that can go wrong there."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from server.domain.chat import AnswerDelta, AnswerEnd, CompletionRequest, Message, RunOptions, ToolCall
from server.domain.errors import (
    InvalidRequest,
    PromptTooLong,
    QueueFull,
    RemoteAway,
    RemoteFailed,
    ServiceError,
    Unloaded,
)
from server.domain.generation import FinishReason
from server.remote import Api, RemoteModel, RemoteSpec
from server.remote.breaker import FAILURES
from server.remote.counting import estimated
from tests.remote.scripted import Call, Scripted, hello, scripted

HI = (Message("user", "Hi"),)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

Result = TypeVar("Result")


@pytest.fixture
def far() -> Iterator[Scripted]:
    """Another server."""
    with scripted() as server:
        yield server


def spec_of(far: Scripted, **more: Any) -> RemoteSpec:
    defaults: dict[str, Any] = {"url": f"{far.url}/v1", "model": "far", "context_tokens": 100}
    return RemoteSpec(**{**defaults, **more})


def with_model(spec: RemoteSpec, work: Callable[[RemoteModel], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        model = RemoteModel(spec)
        try:
            return await work(model)
        finally:
            await model.close()

    return asyncio.run(run())


async def answer(model: RemoteModel, options: RunOptions = RunOptions(), **chat: Any) -> list[Any]:  # noqa: B008
    prompt = await asyncio.to_thread(
        model.prompt, chat.get("messages", HI), chat.get("tools", ()), chat.get("think")
    )
    run = await prompt.submit(options)
    try:
        return [part async for part in run.parts()]
    finally:
        run.close()


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not there():  # noqa: ASYNC110  # what is waited for happens in threads
            await asyncio.sleep(0.01)


def text_of(parts: list[Any]) -> str:
    return "".join(part.content for part in parts if isinstance(part, AnswerDelta))


async def error_of(model: RemoteModel) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await answer(model)
    return caught.value


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


def refused(call: Call) -> None:
    call.status(400, {"error": {"message": "temperature is above 2"}})


def unknown_key(call: Call) -> None:
    call.status(401, {"error": {"message": "Incorrect API key"}})


def unknown_model(call: Call) -> None:
    call.status(404, {"detail": "Not Found"})


def busy(call: Call) -> None:
    call.status(503, {"error": "overloaded"}, retry_after="0")


def broken(call: Call) -> None:
    call.status(500, None)


def hangs_up_at_once(call: Call) -> None:
    call.hang_up()


def ends_before_a_word(call: Call) -> None:
    call.begin()


def breaks_off(call: Call) -> None:
    call.begin()
    call.words("Half")
    call.hang_up()


def tells_an_error(call: Call) -> None:
    call.begin()
    call.words("Half")
    call.event({"error": {"message": "CUDA out of memory"}})


def talks_nonsense(call: Call) -> None:
    call.begin()
    call.event("<html>")


def is_something_else(call: Call) -> None:
    call.begin()
    call.event({"choices": ["Hello"]})


def sends_elsewhere(call: Call) -> None:
    call.status(307, None, location="http://127.0.0.1:1/v1/chat/completions")


@pytest.mark.parametrize(
    ("script", "kind", "words", "tries"),
    [
        (refused, InvalidRequest, "refuses the request: temperature is above 2", 1),
        (unknown_key, RemoteFailed, "Incorrect API key.*remote_key_file", 1),
        (unknown_model, RemoteFailed, "has no model far.*Not Found.*remote_model", 1),
        (busy, RemoteAway, "takes nothing for now.*overloaded", 3),
        (broken, RemoteFailed, "status 500", 3),
        (hangs_up_at_once, RemoteFailed, "broke the connection off", 3),
        (ends_before_a_word, RemoteFailed, "in its middle", 3),
        (breaks_off, RemoteFailed, "127.0.0.1:.*broke the connection off|in its middle", 1),
        (tells_an_error, RemoteFailed, "CUDA out of memory", 1),
        (talks_nonsense, RemoteFailed, "no JSON object", 1),
        (is_something_else, RemoteFailed, "none of this API", 1),
        (sends_elsewhere, RemoteFailed, "status 307", 1),
    ],
)
def test_what_goes_wrong_is_told_and_tried_again_only_before_the_first_word(
    far: Scripted, script: Callable[[Call], None], kind: type[ServiceError], words: str, tries: int
) -> None:
    far.scripts = [script]
    with pytest.raises(kind, match=words):
        with_model(spec_of(far), answer)
    assert len(far.asked) == tries


@pytest.mark.parametrize("script", [busy, broken, hangs_up_at_once, ends_before_a_word])
def test_another_try_succeeds(far: Scripted, script: Callable[[Call], None]) -> None:
    far.scripts = [script, hello]
    parts = with_model(spec_of(far), answer)
    assert text_of(parts) == "Hello there"
    assert len(far.asked) == 2


def test_nobody_is_there(far: Scripted) -> None:
    spec = spec_of(far)
    far.server_close()
    with pytest.raises(RemoteAway, match="cannot be reached"):
        with_model(dataclasses.replace(spec, url="http://127.0.0.1:1/v1", retries=0), answer)


def test_silence_before_and_after_the_first_word(far: Scripted) -> None:
    patience = threading.Event()

    def says_nothing(call: Call) -> None:
        call.begin()
        patience.wait(10)

    def falls_silent(call: Call) -> None:
        call.begin()
        call.words("Half")
        patience.wait(10)

    try:
        far.scripts = [says_nothing]
        with pytest.raises(RemoteFailed, match=r"nothing for 0\.2 s.*remote_first_token_s"):
            with_model(spec_of(far, first_token_s=0.2), answer)
        far.scripts = [falls_silent]
        with pytest.raises(RemoteFailed, match=r"nothing for 0\.2 s.*remote_silence_s"):
            with_model(spec_of(far, silence_s=0.2), answer)
    finally:
        patience.set()


def test_after_failures_in_a_row_it_is_left_alone_and_then_tried_again(far: Scripted) -> None:
    far.scripts = [broken]

    async def work(model: RemoteModel) -> None:
        for _ in range(FAILURES):
            assert isinstance(await error_of(model), RemoteFailed)
        asked = len(far.asked)
        assert asked == FAILURES
        error = await error_of(model)
        assert isinstance(error, RemoteAway)
        assert "tried again in" in str(error)
        assert "status 500" in str(error)
        assert len(far.asked) == asked
        assert model.state.fault is not None
        assert model.state.times_left_alone == 1
        far.scripts = [hello]
        await asyncio.sleep(model.state.retry_in_s)
        assert text_of(await answer(model)) == "Hello there"
        assert model.state.fault is None

    with_model(spec_of(far, retries=0), work)


def test_a_look_closes_it_again(far: Scripted) -> None:
    far.scripts = [broken]

    async def work(model: RemoteModel) -> None:
        for _ in range(FAILURES):
            await error_of(model)
        assert await model.look() == ("far",)
        assert model.state.is_up
        far.looks = unknown_key
        assert await model.look() == ()
        assert "remote_key_file" in str(model.state.fault)

    with_model(spec_of(far, retries=0), work)


def test_the_clients_own_mistakes_do_not_count_against_the_server(far: Scripted) -> None:
    far.scripts = [refused]

    async def work(model: RemoteModel) -> None:
        for _ in range(2 * FAILURES):
            assert isinstance(await error_of(model), InvalidRequest)
        assert model.state.fault is None

    with_model(spec_of(far), work)


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


def test_tokens_are_estimated_where_nobody_counts(far: Scripted) -> None:
    async def work(model: RemoteModel) -> None:
        prompt = await asyncio.to_thread(model.prompt, HI, (), None)
        assert not prompt.is_exact
        assert prompt.size_tokens > estimated("Hi")
        asked = len(far.counted)
        await asyncio.to_thread(model.count, "some words")
        assert len(far.counted) == asked

    with_model(spec_of(far), work)


@pytest.mark.parametrize("exact", [True, False])
def test_the_server_counts_where_it_can(far: Scripted, exact: bool) -> None:
    def vllm(call: Call) -> None:
        if call.path == "/tokenize":
            call.status(200, {"count": 42, "max_model_len": 100, "tokens": [1]})
        else:
            call.status(404, {"detail": "Not Found"})

    far.counts = vllm

    async def work(model: RemoteModel) -> None:
        prompt = await asyncio.to_thread(model.prompt, HI, (), None)
        assert prompt.is_exact is exact
        assert (prompt.size_tokens == 42) is exact

    with_model(spec_of(far, exact=exact), work)
    assert bool(far.counted) is exact


def test_a_server_that_stops_counting_is_estimated_for(far: Scripted) -> None:
    far.counts = lambda call: call.status(200, {"tokens": [1, 2, 3], "prompt": "x"})

    async def work(model: RemoteModel) -> None:
        prompt = await asyncio.to_thread(model.prompt, HI, (), None)
        assert (prompt.size_tokens, prompt.is_exact) == (3, True)
        far.counts = lambda call: call.status(500)
        prompt = await asyncio.to_thread(model.prompt, HI, (), None)
        assert not prompt.is_exact

    with_model(spec_of(far), work)
