"""The client library that most programs in Python use."""

import datetime
import json
from collections.abc import Iterator

import ollama
import pytest

from tests.api.asking import GENERATOR, HELLO, HELPER
from tests.running import RunningServer

FEW = {"num_predict": 4, "temperature": 0}


@pytest.fixture(scope="module")
def library(server: RunningServer) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url, timeout=300)
    yield client
    client._client.close()


def test_chat(library: ollama.Client) -> None:
    answer = library.chat(GENERATOR, HELLO, options=FEW)
    assert answer.message.role == "assistant"
    assert answer.message.content
    assert answer.done_reason == "length"
    assert answer.eval_count == 4


def test_streamed_chat(library: ollama.Client) -> None:
    library.chat(GENERATOR, HELLO, options=FEW)  # see settled()
    chunks = list(library.chat(GENERATOR, HELLO, stream=True, options=FEW))
    whole = library.chat(GENERATOR, HELLO, options=FEW).message.content
    assert "".join(chunk.message.content or "" for chunk in chunks) == whole
    assert [bool(chunk.done) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].total_duration


def test_chat_with_a_schema(library: ollama.Client) -> None:
    form = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]}
    answer = library.chat(GENERATOR, HELLO, format=form, options={"num_predict": 30})
    assert set(json.loads(answer.message.content or "")) == {"warm"}


def test_generate(library: ollama.Client) -> None:
    library.generate(GENERATOR, "Define gravity.", options=FEW)  # see settled()
    answer = library.generate(GENERATOR, "Define gravity.", options=FEW)
    assert answer.response
    assert answer.context
    assert answer.done
    chunks = list(library.generate(GENERATOR, "Define gravity.", stream=True, options=FEW))
    assert "".join(chunk.response for chunk in chunks) == answer.response


def test_load_and_unload(library: ollama.Client) -> None:
    assert library.generate(HELPER, keep_alive=0).done_reason == "unload"
    assert library.generate(HELPER, keep_alive=-1).done_reason == "load"


def test_list(library: ollama.Client) -> None:
    models = library.list().models
    assert {model.model for model in models} == {GENERATOR, HELPER}
    for model in models:
        assert isinstance(model.modified_at, datetime.datetime)
        assert model.size
        assert model.details
        assert model.details.format == "gguf"


def test_ps(library: ollama.Client) -> None:
    library.generate(GENERATOR, keep_alive=-1)
    item = next(model for model in library.ps().models if model.model == GENERATOR)
    assert isinstance(item.expires_at, datetime.datetime)
    assert item.size_vram == 0
    assert item.context_length == 8192


def test_show(library: ollama.Client) -> None:
    shown = library.show(GENERATOR)
    assert shown.modelinfo
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.capabilities == ["completion"]
    assert shown.details
    assert shown.template


@pytest.mark.parametrize("stream", [True, False])
def test_an_unknown_model(library: ollama.Client, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nothing' not found") as raised:
        list(library.chat("nothing", HELLO, stream=stream))
    assert raised.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="not found"):
        library.show("nothing")


def test_a_bad_option(library: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="must be of type integer") as raised:
        library.chat(GENERATOR, HELLO, options={"num_predict": "many"})
    assert raised.value.status_code == 400
