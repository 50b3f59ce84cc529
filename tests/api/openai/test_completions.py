"""``/v1/completions``: a prompt in, a text out."""

import re
from typing import Any

import httpx
import pytest

from server.api.openai.figures import LegacyLogprobs
from server.domain.generation import TokenScore
from tests.api.asking import GENERATOR, HELPER, generate
from tests.api.asking import answer_of as native_answer_of
from tests.api.openai.asking import answer_of, chunks_of, complete, error_of


def settled(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer_of(complete(client, **fields))
    return answer_of(complete(client, **fields))


def test_an_answer_has_the_form_that_clients_parse(client: httpx.Client) -> None:
    answer = answer_of(complete(client, max_tokens=3))
    assert re.fullmatch(r"cmpl-[0-9a-f]{24}", answer["id"])
    assert answer["object"] == "text_completion"
    assert answer["model"] == GENERATOR
    [choice] = answer["choices"]
    assert choice["text"]
    assert {name: choice[name] for name in ("index", "logprobs", "finish_reason")} == {
        "index": 0,
        "logprobs": None,
        "finish_reason": "length",
    }
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["llm_optimizer"]["strategy"] == "direct"


def test_the_prompt_goes_through_the_template_unless_it_is_raw(client: httpx.Client) -> None:
    def prompt_tokens(**fields: Any) -> int:
        tokens: int = answer_of(complete(client, **fields))["usage"]["prompt_tokens"]
        return tokens

    assert prompt_tokens() == native_answer_of(generate(client))["prompt_eval_count"]
    assert prompt_tokens(raw=True) < prompt_tokens()


def test_a_list_of_one_prompt_is_that_prompt(client: httpx.Client) -> None:
    text = settled(client, max_tokens=3)["choices"][0]["text"]
    assert answer_of(complete(client, prompt=["Define gravity."], max_tokens=3))["choices"][0]["text"] == text


def test_a_stream_ends_with_its_reason(client: httpx.Client) -> None:
    text = settled(client, max_tokens=4)["choices"][0]["text"]
    *chunks, last = chunks_of(complete(client, max_tokens=4, stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["llm_optimizer"]["tokens_sent"] > 0


def test_usage_comes_in_a_chunk_of_its_own_if_it_is_wanted(client: httpx.Client) -> None:
    *chunks, last = chunks_of(complete(client, stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 1


def test_a_stop_string_ends_the_answer(client: httpx.Client) -> None:
    text = settled(client, max_tokens=6)["choices"][0]["text"]
    choice = answer_of(complete(client, max_tokens=6, stop=text[4:7]))["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(text[4:7])], "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_lists_side_by_side(client: httpx.Client, stream: bool) -> None:
    response = complete(client, max_tokens=3, logprobs=2, stream=stream)
    answers = chunks_of(response) if stream else [answer_of(response)]
    told = [answer["choices"][0]["logprobs"] for answer in answers if answer["choices"][0]["logprobs"]]
    tokens = [token for part in told for token in part["tokens"]]
    offsets = [offset for part in told for offset in part["text_offset"]]
    assert "".join(tokens) == "".join(answer["choices"][0]["text"] for answer in answers)
    assert offsets == [0, len(tokens[0]), len(tokens[0] + tokens[1])]
    for part in told:
        for token, logprob, likely in zip(
            part["tokens"], part["token_logprobs"], part["top_logprobs"], strict=True
        ):
            assert likely[token] == logprob <= 0
            assert len(likely) == 2


def test_offsets_count_characters_not_bytes() -> None:
    pieces = [b"a", "é".encode()[:1], "é".encode()[1:], "🦊".encode(), b"b"]
    scores = [TokenScore(number, piece, float("-inf")) for number, piece in enumerate(pieces)]
    logprobs = LegacyLogprobs()
    assert logprobs.of(scores[:2])["text_offset"] == [0, 1]
    rest = logprobs.of(scores[2:])
    assert rest["text_offset"] == [1, 2, 3]
    assert rest["token_logprobs"] == [-9999.0] * 3


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"prompt": None}, "prompt must be a string, but it is null"),
    "tokens": ({"prompt": [1, 2]}, "send the text where you have token ids"),
    "lists of tokens": ({"prompt": [[1, 2]]}, "send the text where you have token ids"),
    "two prompts": ({"prompt": ["a", "b"]}, "prompt must be one text, but there are 2"),
    "no prompts": ({"prompt": []}, "prompt must be a string"),
    "n": ({"n": 2}, "n must be 1, but it is 2"),
    "best_of": ({"best_of": 3}, "best_of must be 1, but it is 3"),
    "echo": ({"echo": True}, "echo is not supported"),
    "logprobs": ({"logprobs": 21}, "top_logprobs must be between 0 and 20"),
    "logprobs as a switch": ({"logprobs": True}, "logprobs must be an integer"),
    "suffix": ({"suffix": "x"}, "does not support insert"),
    "no model": ({"model": ""}, "model is required"),
}


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_done_is_refused(client: httpx.Client, fields: dict[str, Any], words: str) -> None:
    assert words in error_of(complete(client, **fields))


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    assert "not found" in error_of(complete(client, model="nothing"), 404, "model_not_found")


def test_a_model_thinks_only_if_it_is_told_to(skilled: httpx.Client) -> None:
    assert "reasoning" not in answer_of(complete(skilled, model=HELPER))["choices"][0]
    choice = answer_of(complete(skilled, model=HELPER, think=True, max_tokens=3))["choices"][0]
    assert choice["text"] == ""
    assert choice["reasoning"]
