"""OpenAI's own client library."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.api.asking import GENERATOR, HELLO, HELPER
from tests.api.openai.asking import ANSWER_SCHEMA, FLAT_TOOL, TOOL
from tests.running import RunningServer

FEW: dict[str, Any] = {"model": GENERATOR, "temperature": 0}
CHAT: Any = HELLO
CALLED: Any = TOOL
STRICT: Any = {"type": "function", "function": {**TOOL["function"], "strict": True}}


class Weather(BaseModel):
    """What the structured answers are parsed to."""

    warm: bool


def connected(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300) as library:
        yield library


@pytest.fixture(scope="module")
def library(server: RunningServer) -> Iterator[openai.OpenAI]:
    yield from connected(server)


@pytest.fixture(scope="module")
def able(skilled_server: RunningServer) -> Iterator[openai.OpenAI]:
    """With models that know tools and thinking."""
    yield from connected(skilled_server)


def test_chat(library: openai.OpenAI) -> None:
    answer = library.chat.completions.create(messages=CHAT, max_completion_tokens=4, **FEW)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer.usage.prompt_tokens_details is not None


def test_streamed_chat(library: openai.OpenAI) -> None:
    library.chat.completions.create(messages=CHAT, max_tokens=4, **FEW)  # see settled()
    whole = library.chat.completions.create(messages=CHAT, max_tokens=4, **FEW)
    chunks = list(
        library.chat.completions.create(
            messages=CHAT, max_tokens=4, stream=True, stream_options={"include_usage": True}, **FEW
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_log_probabilities(library: openai.OpenAI) -> None:
    answer = library.chat.completions.create(
        messages=CHAT, max_tokens=2, logprobs=True, top_logprobs=3, **FEW
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(token.top_logprobs) for token in logprobs.content] == [3, 3]


def test_ollamas_fields_as_an_extra_body(library: openai.OpenAI) -> None:
    extra = {"options": {"num_predict": 2, "num_ctx": 4096}, "keep_alive": "5m", "top_k": 5}
    answer = library.chat.completions.create(messages=CHAT, extra_body=extra, **{**FEW, "model": HELPER})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


def test_a_required_tool_is_called(able: openai.OpenAI) -> None:
    answer = able.chat.completions.create(
        messages=CHAT, tools=[CALLED], tool_choice="required", max_tokens=40, **FEW
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "look"
    result = {"role": "tool", "tool_call_id": call.id, "content": "A cat."}
    history: Any = [*CHAT, answer.choices[0].message, result]
    after = able.chat.completions.create(messages=history, tools=[CALLED], max_tokens=2, **FEW)
    assert after.choices[0].message.content


def test_a_streamed_call_is_put_together(able: openai.OpenAI) -> None:
    with able.chat.completions.stream(
        messages=CHAT, tools=[STRICT], tool_choice="required", max_tokens=40, **FEW
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.done" in kinds
    [call] = message.tool_calls or []
    assert json.loads(call.function.arguments)["place"] in ("here", "there")


def test_a_structured_answer_is_parsed(library: openai.OpenAI) -> None:
    answer = library.chat.completions.parse(messages=CHAT, response_format=Weather, max_tokens=30, **FEW)
    assert isinstance(answer.choices[0].message.parsed, Weather)


def test_thoughts(able: openai.OpenAI) -> None:
    answer = able.chat.completions.create(
        messages=CHAT, max_tokens=3, reasoning_effort="low", **{**FEW, "model": HELPER}
    )
    assert answer.choices[0].message.reasoning_content


def test_models(library: openai.OpenAI) -> None:
    assert {model.id for model in library.models.list()} == {GENERATOR, HELPER}
    model = library.models.retrieve(GENERATOR)
    assert (model.id, model.object, model.owned_by) == (GENERATOR, "model", "library")


def test_completions(library: openai.OpenAI) -> None:
    library.completions.create(prompt="Define gravity.", max_tokens=3, **FEW)  # see settled()
    answer = library.completions.create(prompt="Define gravity.", max_tokens=3, logprobs=1, **FEW)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.text_offset
    chunks = list(library.completions.create(prompt="Define gravity.", max_tokens=3, stream=True, **FEW))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_responses(library: openai.OpenAI) -> None:
    response = library.responses.create(
        input="Define gravity.", instructions="Be brief.", max_output_tokens=3, **FEW
    )
    assert response.output_text
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 3
    assert response.usage.input_tokens_details.cached_tokens >= 0


def test_streamed_responses(library: openai.OpenAI) -> None:
    events = list(library.responses.create(input="Define gravity.", max_output_tokens=3, stream=True, **FEW))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.incomplete"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text


def test_a_streamed_response_is_put_together(library: openai.OpenAI) -> None:
    form: Any = {
        "format": {"type": "json_schema", "name": "weather", "schema": ANSWER_SCHEMA, "strict": True}
    }
    with library.responses.stream(input="Is it warm?", text=form, max_output_tokens=30, **FEW) as stream:
        for _ in stream:
            pass
        response = stream.get_final_response()
    assert response.status == "completed"
    assert set(json.loads(response.output_text)) == {"warm"}


def test_a_structured_response_is_parsed(library: openai.OpenAI) -> None:
    response = library.responses.parse(input="Is it warm?", text_format=Weather, max_output_tokens=30, **FEW)
    assert isinstance(response.output_parsed, Weather)


def test_a_call_in_a_streamed_response(able: openai.OpenAI) -> None:
    tool: Any = FLAT_TOOL
    with able.responses.stream(
        input="Look.", tools=[tool], tool_choice="required", max_output_tokens=40, **FEW
    ) as stream:
        for _ in stream:
            pass
        [call] = stream.get_final_response().output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["place"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "A cat."}
    history: Any = [{"role": "user", "content": "Look."}, call.to_dict(), result]
    assert able.responses.create(input=history, max_output_tokens=2, **FEW).output_text


def test_thoughts_of_a_response(able: openai.OpenAI) -> None:
    response = able.responses.create(
        input="Hi", reasoning={"effort": "low"}, max_output_tokens=3, **{**FEW, "model": HELPER}
    )
    [item] = response.output
    assert item.type == "reasoning"
    assert item.summary[0].text
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == 3


def test_errors_are_those_of_the_library(library: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'nothing' not found") as missing:
        library.chat.completions.create(model="nothing", messages=CHAT)
    assert missing.value.code == "model_not_found"
    assert missing.value.type == "not_found_error"
    with pytest.raises(openai.NotFoundError):
        library.models.retrieve("nothing")
    with pytest.raises(openai.BadRequestError, match="n must be 1"):
        library.chat.completions.create(messages=CHAT, n=2, **FEW)
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        library.responses.create(input="Hi", previous_response_id="resp_1", stream=True, **FEW)
    with pytest.raises(openai.BadRequestError, match="invalid input"):
        library.embeddings.create(model=GENERATOR, input=[1, 2])
