"""Vectors by OpenAI's own client library."""

import base64
import math
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from tests.api.workshop import BIG, EMBED, Workshop

TEXTS = ["The sea is calm.", "A letter came by night."]


@pytest.fixture
def library(bench: Workshop) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{bench.server.url}/v1", api_key="none", max_retries=0) as library:
        yield library


def test_each_text_has_its_vector(library: openai.OpenAI) -> None:
    answer = library.embeddings.create(model=EMBED, input=TEXTS)
    assert (answer.object, answer.model) == ("list", EMBED)
    assert [item.index for item in answer.data] == [0, 1]
    assert all(math.isclose(math.hypot(*item.embedding), 1, abs_tol=1e-4) for item in answer.data)
    assert answer.data[0].embedding != answer.data[1].embedding
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 2


def test_the_same_numbers_in_either_form(library: openai.OpenAI) -> None:
    plain = library.embeddings.create(model=EMBED, input=TEXTS[0], encoding_format="float")
    packed = library.embeddings.with_raw_response.create(
        model=EMBED, input=TEXTS[0], encoding_format="base64"
    )
    text = packed.http_response.json()["data"][0]["embedding"]
    numbers = np.frombuffer(base64.b64decode(text), "<f4")
    assert numbers.tolist() == pytest.approx(plain.data[0].embedding, abs=5e-3)


def test_fewer_dimensions(library: openai.OpenAI) -> None:
    [item] = library.embeddings.create(model=EMBED, input=TEXTS[0], dimensions=8).data
    assert len(item.embedding) == 8
    assert math.isclose(math.hypot(*item.embedding), 1, abs_tol=1e-4)


def test_a_model_that_chats_gives_none(library: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support embeddings"):
        library.embeddings.create(model=BIG, input=TEXTS[0])
