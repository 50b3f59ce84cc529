"""LangChain's client."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from ollama import ResponseError
from pydantic import BaseModel

from tests.api.asking import GENERATOR
from tests.api.workshop import EMBED, Workshop
from tests.running import RunningServer

HELLO = [HumanMessage("Define gravity.")]


def as_call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A schema that stands in for a model that is good at calling tools."""
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


CALL = as_call(
    "get_weather",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
)


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}."


class Weather(BaseModel):
    """Whether it is warm."""

    warm: bool


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


Make = Callable[..., ChatOllama]


@pytest.fixture
def chat_with(skilled_server: RunningServer) -> Iterator[Make]:
    """Makes clients that look their model up in ``/api/tags`` first, and closes them, which they never do."""
    made: list[ChatOllama] = []

    def make(**fields: Any) -> ChatOllama:
        few = {"model": GENERATOR, "num_predict": 4, "temperature": 0, "validate_model_on_init": True}
        made.append(ChatOllama(base_url=skilled_server.url, **{**few, **fields}))
        return made[-1]

    yield make
    for client in made:
        client._client._client.close()


def test_invoke(chat_with: Make) -> None:
    answer = chat_with().invoke(HELLO)
    assert answer.content
    assert answer.response_metadata["done_reason"] == "length"
    assert answer.usage_metadata
    assert answer.usage_metadata["output_tokens"] == 4


def test_stream(chat_with: Make) -> None:
    client = chat_with()
    client.invoke(HELLO)  # see settled()
    chunks = list(client.stream(HELLO))
    assert len(chunks) > 1
    assert "".join(str(chunk.content) for chunk in chunks) == client.invoke(HELLO).content


def test_bind_tools(chat_with: Make) -> None:
    answer = chat_with(format=CALL, num_predict=60).bind_tools([get_weather]).invoke(HELLO)
    assert isinstance(answer, AIMessage)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    after = chat_with().bind_tools([get_weather]).invoke([*HELLO, answer, result])
    assert after.response_metadata["done"] is True


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_with_structured_output(chat_with: Make, method: Any) -> None:
    own = {"format": as_call("Weather", Weather.model_json_schema())} if method == "function_calling" else {}
    answer = chat_with(num_predict=60, **own).with_structured_output(Weather, method=method).invoke(HELLO)
    assert isinstance(answer, Weather)


@pytest.mark.anyio
async def test_ainvoke(chat_with: Make) -> None:
    client = chat_with()
    answer = await client.ainvoke(HELLO)
    assert answer.content
    await client._async_client._client.aclose()


def test_an_unknown_model(chat_with: Make) -> None:
    with pytest.raises(ResponseError, match="model 'nothing' not found") as raised:
        chat_with(model="nothing", validate_model_on_init=False).invoke(HELLO)
    assert raised.value.status_code == 404


def test_embeddings(bench: Workshop) -> None:
    embeddings = OllamaEmbeddings(model=EMBED, base_url=bench.server.url)
    first, second = embeddings.embed_documents(["one", "another"])
    assert math.isclose(math.hypot(*first), 1, abs_tol=1e-4)
    assert first != second
    assert embeddings.embed_query("one") == pytest.approx(first, abs=5e-3)
    assert embeddings._client
    embeddings._client._client.close()
