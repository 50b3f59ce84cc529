import math
from collections.abc import Callable

import httpx
import pytest

from tests.api.asking import answer_of, chat, chunks_of, generate

Ask = Callable[..., httpx.Response]
FEW = {"num_predict": 4, "temperature": 0}


@pytest.mark.parametrize("ask", [chat, generate])
def test_every_token_has_its_probability(client: httpx.Client, ask: Ask) -> None:
    answer = answer_of(ask(client, options=FEW, logprobs=True, top_logprobs=3))
    text = answer.get("response") or answer["message"]["content"]
    scores = answer["logprobs"]
    assert len(scores) == answer["eval_count"]
    assert "".join(score["token"] for score in scores).startswith(text)
    for score in scores:
        assert bytes(score["bytes"]).decode() == score["token"]
        likely = score["top_logprobs"]
        assert len(likely) == 3
        assert likely[0]["token"] == score["token"], "greedy takes the likeliest"
        assert 0 >= likely[0]["logprob"] >= likely[1]["logprob"] >= likely[2]["logprob"]
        assert sum(math.exp(other["logprob"]) for other in likely) <= 1.0001


def test_a_stream_has_them_with_its_text(client: httpx.Client) -> None:
    chunks = chunks_of(chat(client, options=FEW, logprobs=True, stream=True))
    scores = [score for chunk in chunks for score in chunk.get("logprobs", [])]
    assert len(scores) == chunks[-1]["eval_count"]
    assert all("top_logprobs" not in score for score in scores)


def test_nobody_gets_them_unasked(client: httpx.Client) -> None:
    assert "logprobs" not in answer_of(chat(client, options=FEW, top_logprobs=3))
