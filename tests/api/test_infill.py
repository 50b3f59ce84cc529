"""Filling the gap between a prompt and a suffix, with a model that has tokens for it."""

from collections.abc import Iterator

import httpx
import pytest

from bench.tiny_models import write_llama
from tests.api.asking import answer_of, chunks_of
from tests.running import embedded_config, serving

NAME = "fills:1b"
BEFORE, AFTER = "def f(x):\n    return ", "\n\nf(1)\n"
GAP = {"model": NAME, "prompt": BEFORE, "suffix": AFTER}
READ_TOKENS = len(BEFORE) + len(AFTER) + 3


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("infill")
    marks = {"fim_pre_token_id": 257, "fim_suf_token_id": 258, "fim_mid_token_id": 259}
    model = write_llama(folder / "fills.gguf", **marks)
    small = {"context": 512, "kv_type": "f16"}
    config = embedded_config(model, generator={**small, "name": NAME}, helper={**small, "preload": False})
    with serving(folder, config) as running, running.client() as client:
        yield client


def test_that_it_can_is_told(filler: httpx.Client) -> None:
    shown = filler.post("/api/show", json={"model": NAME}).json()
    assert "insert" in shown["capabilities"]
    assert ".Suffix" in shown["template"]


@pytest.mark.parametrize("stream", [True, False])
def test_generate_fills_the_gap(filler: httpx.Client, *, stream: bool) -> None:
    wanted = {**GAP, "stream": stream, "options": {"num_predict": 5, "temperature": 0}}
    response = filler.post("/api/generate", json=wanted)
    chunks = chunks_of(response) if stream else [answer_of(response)]
    assert (chunks[-1]["prompt_eval_count"], chunks[-1]["eval_count"]) == (READ_TOKENS, 5)
    other = answer_of(filler.post("/api/generate", json={**wanted, "stream": False, "suffix": "x"}))
    assert other["prompt_eval_count"] == READ_TOKENS - len(AFTER) + 1


def test_completions_fill_the_gap(filler: httpx.Client) -> None:
    answer = filler.post("/v1/completions", json={**GAP, "max_tokens": 5, "temperature": 0}).json()
    assert answer["usage"]["prompt_tokens"] == READ_TOKENS
    assert len(answer["choices"][0]["text"]) == 5
