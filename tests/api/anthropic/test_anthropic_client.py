"""Anthropic's own client library."""

import json
from collections.abc import Iterator

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel

from tests.api.anthropic.asking import WEATHER
from tests.api.asking import GENERATOR, HELPER
from tests.running import RunningServer

HELLO: list[MessageParam] = [{"role": "user", "content": "Define gravity."}]
TOOL: ToolParam = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": WEATHER["input_schema"],  # type: ignore[typeddict-item]
}

GREEDY = {"temperature": 0}
"""Newer versions of the library have no parameter for it."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def library(skilled_server: RunningServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=skilled_server.url, api_key="any", max_retries=0) as client:
        yield client


def create(library: anthropic.Anthropic) -> anthropic.types.Message:
    return library.messages.create(
        model=GENERATOR, max_tokens=4, messages=HELLO, system="Be brief.", extra_body=GREEDY
    )


def test_create(library: anthropic.Anthropic) -> None:
    message = create(library)
    assert message.role == "assistant"
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 4
    (block,) = message.content
    assert block.type == "text"
    assert block.text
    assert message._request_id


def test_stream(library: anthropic.Anthropic) -> None:
    create(library)  # see settled()
    (whole,) = create(library).content
    with library.messages.stream(
        model=GENERATOR, max_tokens=4, messages=HELLO, system="Be brief.", extra_body=GREEDY
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.type == "text"
    assert whole.text == text
    assert [block.model_dump(include={"type", "text"}) for block in final.content] == [
        {"type": "text", "text": text}
    ]
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 4


def test_raw_events(library: anthropic.Anthropic) -> None:
    events = library.messages.create(model=GENERATOR, max_tokens=1, messages=HELLO, stream=True)
    kinds = [event.type for event in events]
    # The library itself passes over the pings.
    assert kinds[0] == "message_start"
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_conversation_with_a_tool(library: anthropic.Anthropic) -> None:
    with library.messages.stream(
        model=GENERATOR, max_tokens=60, messages=HELLO, tools=[TOOL], tool_choice={"type": "any"}
    ) as stream:
        pieces = "".join(event.partial_json for event in stream if event.type == "input_json")
        answer = stream.get_final_message()
    (call,) = answer.content
    assert call.type == "tool_use"
    assert call.input == json.loads(pieces) == {"city": "Paris", "days": 3}
    assert answer.stop_reason == "tool_use"
    result: MessageParam = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}],
    }
    history: list[MessageParam] = [*HELLO, {"role": "assistant", "content": answer.content}, result]
    after = library.messages.create(model=GENERATOR, max_tokens=2, messages=history, tools=[TOOL])
    assert after.usage.input_tokens + (after.usage.cache_read_input_tokens or 0) > 60


def test_thinking(library: anthropic.Anthropic) -> None:
    with library.messages.stream(
        model=HELPER, max_tokens=1025, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 1024}
    ) as stream:
        for event in stream:
            if event.type == "thinking":
                assert event.snapshot
                break
        else:
            raise AssertionError("no thinking came")


def test_a_schema(library: anthropic.Anthropic) -> None:
    class Weather(BaseModel):
        warm: bool

    answer = library.messages.parse(model=GENERATOR, max_tokens=20, messages=HELLO, output_format=Weather)
    assert isinstance(answer.parsed_output, Weather)


def test_count_tokens(library: anthropic.Anthropic) -> None:
    counted = library.messages.count_tokens(model=GENERATOR, messages=HELLO, tools=[TOOL]).input_tokens
    usage = library.messages.create(model=GENERATOR, max_tokens=1, messages=HELLO, tools=[TOOL]).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0) > 100


def test_errors_are_the_librarys_own(library: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model 'claude-none' not found") as missing:
        library.messages.create(model="claude-none", max_tokens=1, messages=HELLO)
    assert missing.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="messages is required"):
        library.messages.create(model=GENERATOR, max_tokens=1, messages=[])
    with pytest.raises(anthropic.NotFoundError):
        library.messages.count_tokens(model="claude-none", messages=HELLO)
    with (
        pytest.raises(anthropic.NotFoundError),
        library.messages.stream(model="claude-none", max_tokens=1, messages=HELLO),
    ):
        pass


@pytest.mark.anyio
async def test_the_library_for_asyncio(skilled_server: RunningServer) -> None:
    async with anthropic.AsyncAnthropic(base_url=skilled_server.url, api_key="any") as library:
        message = await library.messages.create(model=GENERATOR, max_tokens=1, messages=HELLO)
    assert message.usage.output_tokens == 1
