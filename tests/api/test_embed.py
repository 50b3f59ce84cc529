"""Texts to vectors, over HTTP."""

import math
from typing import Any

import httpx
import ollama
import pytest

from tests.api.asking import answer_of, error_of, eventually
from tests.api.workshop import BIG, EMBED, Workshop

TEXTS = ["The sea is calm.", "A letter came by night.", "?"]
LONGEST = 256


def embed(bench: Workshop, **body: Any) -> httpx.Response:
    return bench.client.post("/api/embed", json={"model": EMBED, **body})


def vectors(bench: Workshop, **body: Any) -> list[list[float]]:
    response = embed(bench, **body)
    assert response.status_code == 200, response.text
    found: list[list[float]] = response.json()["embeddings"]
    for vector in found:
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-5)
    return found


def near(left: list[float], right: list[float]) -> bool:
    return max(abs(one - other) for one, other in zip(left, right, strict=True)) < 5e-3


def test_each_text_has_its_vector_in_order(bench: Workshop) -> None:
    together = vectors(bench, input=TEXTS)
    assert len(together) == 3
    for text, vector in zip(TEXTS, together, strict=True):
        [alone] = vectors(bench, input=text)
        assert near(alone, vector)
    assert not near(together[0], together[1])


def test_what_the_answer_tells(bench: Workshop) -> None:
    answer = embed(bench, model=EMBED.upper(), input=["abc"] * 3).json()
    assert answer["model"] == EMBED.upper()
    once = embed(bench, input="abc").json()
    assert answer["prompt_eval_count"] == 3 * once["prompt_eval_count"] > 0
    assert answer["total_duration"] >= answer["load_duration"] > 0


@pytest.mark.parametrize("empty", [{}, {"input": None}, {"input": ""}, {"input": []}])
def test_nothing_to_embed_loads_the_model(bench: Workshop, empty: dict[str, Any]) -> None:
    bench.client.post("/api/generate", json={"model": EMBED, "keep_alive": 0})
    assert eventually(lambda: EMBED not in bench.loaded())
    assert embed(bench, **empty).json() == {"model": EMBED, "embeddings": []}
    [item] = [item for item in bench.client.get("/api/ps").json()["models"] if item["name"] == EMBED]
    assert item["size"] > 0
    assert item["context_length"] == LONGEST
    assert item["slots"]["total"] == 1


@pytest.mark.parametrize("wrong", [5, {"a": 1}, [1], ["a", None], ["a", ["b"]], True])
def test_what_is_no_text(bench: Workshop, wrong: Any) -> None:
    assert error_of(embed(bench, input=wrong)) == "invalid input type"
    assert error_of(embed(bench, model="nothing", input=wrong)) == "invalid input type"


def test_dimensions_cut_the_vector_and_make_it_of_length_1(bench: Workshop) -> None:
    [whole] = vectors(bench, input="abc")
    [cut] = vectors(bench, input="abc", dimensions=16)
    assert (len(whole), len(cut)) == (64, 16)
    length = math.hypot(*whole[:16])
    assert near(cut, [number / length for number in whole[:16]])
    assert near(whole, *vectors(bench, input="abc", dimensions=64))
    assert near(whole, *vectors(bench, input="abc", dimensions=0))
    assert error_of(embed(bench, input="abc", dimensions=65)) == (
        "dimensions is 65, but the model's vectors have 64"
    )
    assert "dimensions" in error_of(embed(bench, input="abc", dimensions=-1))


def test_a_long_text_is_cut_or_refused(bench: Workshop) -> None:
    long = "abcdefgh " * 100
    cut = embed(bench, input=[long, "x"]).json()
    assert cut["prompt_eval_count"] == LONGEST + embed(bench, input="x").json()["prompt_eval_count"]
    [vector, _] = cut["embeddings"]
    marks = embed(bench, input="x").json()["prompt_eval_count"] - 1
    assert near(vector, *vectors(bench, input=long[: LONGEST - marks]))
    text = error_of(embed(bench, input=["x", long], truncate=False))
    assert text.startswith("the input length exceeds the context length")
    assert "256" in text
    short = embed(bench, input=long, options={"num_ctx": 32}).json()
    assert short["prompt_eval_count"] == 32


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        (None, 404, "model '' not found"),
        ("", 404, "model '' not found"),
        ("a b", 400, "invalid model name"),
        ("nothing", 404, 'model "nothing" not found, try pulling it first'),
        ("x:cloud", 404, 'model "x:cloud" not found, try pulling it first'),
        ("x:cloud:local", 400, "invalid model name: use either :local or :cloud, not both"),
        (BIG, 400, f'"{BIG}" does not support embeddings: take a model that is made for them'),
    ],
)
def test_names(bench: Workshop, name: str | None, status: int, text: str) -> None:
    assert error_of(embed(bench, model=name, input="x"), status).startswith(text)


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        (None, 400, "model is required"),
        ("a b", 400, "invalid model name"),
        ("nothing", 404, 'model "nothing" not found, try pulling it first'),
        (BIG, 400, f'"{BIG}" does not support embeddings'),
    ],
)
def test_names_of_the_older_route(bench: Workshop, name: str | None, status: int, text: str) -> None:
    response = bench.client.post("/api/embeddings", json={"model": name, "prompt": "x"})
    assert error_of(response, status).startswith(text)


def test_the_older_route(bench: Workshop) -> None:
    answer = bench.client.post("/api/embeddings", json={"model": EMBED, "prompt": TEXTS[0]}).json()
    assert list(answer) == ["embedding"]
    assert near(answer["embedding"], *vectors(bench, input=TEXTS[0]))
    empty = bench.client.post("/api/embeddings", json={"model": EMBED, "prompt": ""}).json()
    assert empty == {"embedding": []}


def test_an_embedding_model_does_nothing_else(bench: Workshop) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    chat = bench.client.post("/api/chat", json={"model": EMBED, "messages": messages})
    assert error_of(chat) == f'"{EMBED}" does not support chat'
    generate = bench.client.post("/api/generate", json={"model": EMBED, "prompt": "Hi"})
    assert error_of(generate) == f'"{EMBED}" does not support generate'
    assert error_of(bench.client.post("/api/generate", json={"model": EMBED})) == (
        f'"{EMBED}" does not support generate'
    )
    assert bench.tag(EMBED)["capabilities"] == ["embedding"]


def test_keep_alive(bench: Workshop) -> None:
    assert len(vectors(bench, input="x", keep_alive=0)) == 1
    assert eventually(lambda: EMBED not in bench.loaded())
    vectors(bench, input="x", keep_alive="10m")
    assert EMBED in bench.loaded()
    empty = bench.client.post("/api/generate", json={"model": EMBED, "keep_alive": 0})
    assert answer_of(empty)["done_reason"] == "unload"
    assert eventually(lambda: EMBED not in bench.loaded())


def test_options_without_effect_are_logged(bench: Workshop) -> None:
    vectors(bench, input="x", options={"num_gpu": 1})
    assert bench.server.logged("/api/embed: options ignored: num_gpu")


def test_the_client_library(bench: Workshop) -> None:
    client = ollama.Client(host=bench.server.url, timeout=60)
    answer = client.embed(EMBED, TEXTS, dimensions=8)
    assert [len(vector) for vector in answer.embeddings] == [8, 8, 8]
    assert answer.prompt_eval_count
    older = client.embeddings(EMBED, TEXTS[0])
    assert len(older.embedding) == 64
    client._client.close()
