"""``/v1/chat/completions``: messages in, answers out."""

import json
import re
import time
from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, HELLO, HELPER, generate, resident
from tests.api.openai.asking import ANSWER_SCHEMA, TOOL, answer_of, chat, chunks_of, error_of


def settled(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """The second answer to the same question: see the function of that name for Ollama's dialect."""
    answer_of(chat(client, **fields))
    return answer_of(chat(client, **fields))


def content_of(answer: dict[str, Any]) -> str:
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_an_answer_has_the_form_that_clients_parse(client: httpx.Client) -> None:
    answer = answer_of(chat(client))
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", answer["id"])
    assert answer["object"] == "chat.completion"
    assert abs(answer["created"] - time.time()) < 60
    assert answer["model"] == GENERATOR
    assert answer["system_fingerprint"] == "fp_ollama"
    [choice] = answer["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert set(choice["message"]) == {"role", "content"}
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]


def test_each_answer_has_an_id_of_its_own(client: httpx.Client) -> None:
    assert answer_of(chat(client))["id"] != answer_of(chat(client))["id"]


def test_usage_counts_the_whole_prompt_and_tells_what_was_cached(client: httpx.Client) -> None:
    usage = settled(client, max_tokens=3)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (33, 3, 36)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 33}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_what_was_done_is_in_the_answer_and_its_headers(client: httpx.Client) -> None:
    response = chat(client)
    ours = answer_of(response)["llm_optimizer"]
    assert ours["strategy"] == "A"
    assert ours["tokens_received"] == ours["tokens_sent"] == 33
    assert response.headers["X-LLM-Optimizer-Tokens-Sent"] == "33"
    assert response.headers["X-Request-Id"]


def test_a_stream_has_a_role_words_a_reason_and_an_end(client: httpx.Client) -> None:
    whole = settled(client, max_tokens=4)
    first, *middle, last = chunks_of(chat(client, max_tokens=4, stream=True))
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    ]
    assert all(list(chunk["choices"][0]["delta"]) == ["content"] for chunk in middle)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in middle)
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert text == content_of(whole)
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert last["llm_optimizer"]["tokens_sent"] == 33
    assert not any("usage" in chunk for chunk in (first, *middle, last))


def test_usage_comes_in_a_chunk_of_its_own_if_it_is_wanted(client: httpx.Client) -> None:
    *chunks, last = chunks_of(chat(client, stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (33, 1)
    assert last["llm_optimizer"]["tokens_received"] == 33


def test_the_role_goes_out_before_the_model_has_read_the_prompt(client: httpx.Client) -> None:
    body = {
        "model": HELPER,
        "messages": [{"role": "user", "content": "word " * 400}],
        "stream": True,
        "max_tokens": 1,
    }
    began = time.monotonic()
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert '"role":"assistant"' in next(lines)
        first_s = time.monotonic() - began
        assert "data: [DONE]" in list(lines)
    assert first_s < (time.monotonic() - began) / 2


LIMITS = [
    ({"max_tokens": 3}, 3),
    ({"max_tokens": None, "max_completion_tokens": 2}, 2),
    ({"max_tokens": 4, "max_completion_tokens": 2}, 2),
    ({"max_tokens": 4, "options": {"num_predict": 2}}, 2),
    ({"max_tokens": 2, "options": {"num_predict": None, "num_ctx": 4096}}, 2),
]


@pytest.mark.parametrize(("fields", "tokens"), LIMITS, ids=str)
def test_limits_of_every_name_hold(client: httpx.Client, fields: dict[str, Any], tokens: int) -> None:
    assert answer_of(chat(client, **fields))["usage"]["completion_tokens"] == tokens


@pytest.mark.parametrize("in_list", [False, True])
def test_a_stop_string_ends_the_answer(client: httpx.Client, in_list: bool) -> None:
    text = content_of(settled(client, max_tokens=6))
    stop = text[4:7]
    answer = answer_of(chat(client, max_tokens=6, stop=[stop, "never"] if in_list else stop))
    assert content_of(answer) == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_seed_repeats_an_answer(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"max_tokens": 8, "temperature": 1.5, "seed": 7}
    assert content_of(settled(client, **fields)) == content_of(settled(client, **fields))
    others = {content_of(answer_of(chat(client, **{**fields, "seed": seed}))) for seed in range(3)}
    assert len(others) > 1


def first_token(client: httpx.Client) -> int:
    token: int = generate(client).json()["context"][-1]
    return token


def test_a_bias_forbids_a_token_or_forces_it(client: httpx.Client) -> None:
    token, free = first_token(client), content_of(answer_of(chat(client)))
    assert content_of(answer_of(chat(client, logit_bias={str(token): -100}))) != free
    forced = answer_of(chat(client, logit_bias={str(token): 100}, max_tokens=3, logprobs=True))
    assert content_of(forced) == free * 3


BIASES: dict[str, tuple[Any, str]] = {
    "no token": ({"x": 1}, 'logit_bias: "x" is no token id'),
    "out of range": ({"5": 101}, "logit_bias: token 5 must get a number from -100 to 100, but it is 101"),
    "no number": ({"5": True}, "token 5 must get a number"),
    "not of this model": ({"49152": 1}, "logit_bias: 49152 is no token of this model, which has 0 to 49151"),
    "no object": ([], "logit_bias must be an object"),
}


@pytest.mark.parametrize(("bias", "words"), BIASES.values(), ids=BIASES.keys())
def test_a_bias_of_a_wrong_shape_is_an_error(client: httpx.Client, bias: Any, words: str) -> None:
    assert words in error_of(chat(client, logit_bias=bias))


def test_log_probabilities_come_with_their_alternatives(client: httpx.Client) -> None:
    choice = answer_of(chat(client, max_tokens=3, logprobs=True, top_logprobs=2))["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert len(tokens) == 3
    for token in tokens:
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= 0
        assert token["top_logprobs"][0]["token"] == token["token"]
        assert len(token["top_logprobs"]) == 2
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]


def test_log_probabilities_are_streamed(client: httpx.Client) -> None:
    chunks = chunks_of(chat(client, max_tokens=3, logprobs=True, stream=True))
    told = [
        chunk["choices"][0]["logprobs"]["content"] for chunk in chunks if "logprobs" in chunk["choices"][0]
    ]
    tokens = [token for part in told for token in part]
    assert len(tokens) == 3
    assert all(token["top_logprobs"] == [] for token in tokens)
    assert "logprobs" not in answer_of(chat(client))["choices"][0]


def test_top_logprobs_have_a_range(client: httpx.Client) -> None:
    assert error_of(chat(client, top_logprobs=21)) == "top_logprobs must be between 0 and 20"


def schema_format(**form: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, **form}}


def test_a_json_schema_shapes_the_answer(client: httpx.Client) -> None:
    answer = answer_of(chat(client, max_tokens=30, response_format=schema_format(schema=ANSWER_SCHEMA)))
    assert set(json.loads(content_of(answer))) == {"warm"}
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_json_object_is_one_and_text_is_anything(client: httpx.Client) -> None:
    assert content_of(answer_of(chat(client, response_format={"type": "json_object"}))).lstrip()[0] == "{"
    assert answer_of(chat(client, response_format={"type": "text"}))["choices"]
    given = {"type": "json_object", "schema": ANSWER_SCHEMA}
    assert set(json.loads(content_of(answer_of(chat(client, max_tokens=30, response_format=given))))) == {
        "warm"
    }


FORMATS: dict[str, tuple[Any, str]] = {
    "no type": ({}, 'response_format.type must be "text", "json_object" or "json_schema", but it is null'),
    "another type": ({"type": "grammar"}, 'but it is "grammar"'),
    "no schema": (schema_format(), "response_format.json_schema.schema must be a JSON schema"),
    "no object": ("json", "response_format must be an object"),
    "a bad schema": (schema_format(schema={"type": 5}), "invalid format"),
}


@pytest.mark.parametrize(("form", "words"), FORMATS.values(), ids=FORMATS.keys())
def test_a_format_of_a_wrong_shape_is_an_error(client: httpx.Client, form: Any, words: str) -> None:
    assert words in error_of(chat(client, response_format=form))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "n": ({"n": 2}, "n must be 1, but it is 2"),
    "functions": ({"functions": [TOOL["function"]]}, "send tools and tool_choice"),
    "function_call": ({"function_call": "auto"}, "send tools and tool_choice"),
    "modalities": ({"modalities": ["text", "audio"]}, 'modalities must be ["text"]'),
    "temperature": ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
    "max_tokens": ({"max_tokens": "many"}, 'max_tokens must be an integer, but it is "many"'),
    "stop": ({"stop": 5}, 'option "stop" must be of type array'),
    "seed": ({"seed": "x"}, 'option "seed" must be of type integer'),
    "stream": ({"stream": 1}, "stream must be true or false, but it is 1"),
    "stream_options": ({"stream_options": {"include_usage": 5}}, "stream_options.include_usage must be true"),
    "options": ({"options": {"num_ctx": "x"}}, 'option "num_ctx" must be of type integer'),
    "keep_alive": ({"keep_alive": "abc"}, 'time: invalid duration "abc"'),
    "think": ({"think": "huge"}, 'invalid think value: "huge"'),
    "effort": ({"reasoning_effort": "huge"}, 'invalid reasoning value: "huge"'),
    "no model": ({"model": None}, "model is required"),
    "a bad model": ({"model": "a b"}, "invalid model name"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_done_is_refused(
    client: httpx.Client, fields: dict[str, Any], words: str, stream: bool
) -> None:
    assert words in error_of(chat(client, **{"stream": stream, **fields}))


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    for stream in (False, True):
        text = error_of(chat(client, model="nothing", stream=stream), 404, "model_not_found")
        assert text == "model 'nothing' not found"


def test_a_prompt_that_cannot_fit_has_the_code_that_agents_look_for(client: httpx.Client) -> None:
    messages = [{"role": "system", "content": "word " * 9000}, *HELLO]
    text = error_of(chat(client, messages=messages), 400, "context_length_exceeded")
    assert text == "prompt is too long: 9018 tokens exceed the context window of 8192 tokens"


def test_an_effort_needs_a_model_that_thinks_but_none_does_not(client: httpx.Client) -> None:
    assert error_of(chat(client, reasoning_effort="low")) == f'"{GENERATOR}" does not support thinking'
    assert error_of(chat(client, reasoning={"effort": "high"})) == f'"{GENERATOR}" does not support thinking'
    answer_of(chat(client, reasoning_effort="none"))
    answer_of(chat(client, reasoning={"effort": "none"}, reasoning_effort="high"))


def test_thoughts_come_under_both_names(skilled: httpx.Client) -> None:
    answer = answer_of(chat(skilled, model=HELPER, reasoning_effort="minimal", max_tokens=3))
    message = answer["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] != ""
    assert message["content"] == ""
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    chunks = chunks_of(chat(skilled, model=HELPER, reasoning_effort="high", max_tokens=3, stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[1:-1]]
    assert all(list(delta) == ["reasoning", "reasoning_content"] for delta in deltas)
    assert "reasoning" not in answer_of(chat(skilled, model=HELPER, think=False))["choices"][0]["message"]


def test_labels_are_harmless_and_wishes_without_effect_are_named(client: httpx.Client) -> None:
    labels = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "n": 1}
    neutral = {"parallel_tool_calls": True, "modalities": ["text"], "unknown": {"x": 1}, "tools": []}
    assert "ignored" not in answer_of(chat(client, **labels, **neutral))["llm_optimizer"]
    wishes = {"parallel_tool_calls": False, "store": True, "service_tier": "flex", "verbosity": "low"}
    ignored = answer_of(chat(client, **wishes, options={"mirostat": 1}))["llm_optimizer"]["ignored"]
    assert set(ignored) == {*wishes, "mirostat"}


def test_null_counts_as_absent(client: httpx.Client) -> None:
    names = ("tools", "tool_choice", "stop", "seed", "n", "response_format", "logit_bias", "stream_options")
    more = (
        "reasoning",
        "reasoning_effort",
        "top_p",
        "options",
        "keep_alive",
        "max_completion_tokens",
        "stream",
    )
    answer_of(chat(client, **dict.fromkeys((*names, *more))))


def test_ollamas_own_fields_hold(client: httpx.Client) -> None:
    fields = {"keep_alive": "30m", "top_k": 1, "min_p": 0.1, "options": {"num_ctx": 2048}}
    assert "ignored" not in answer_of(chat(client, model=HELPER, **fields))["llm_optimizer"]
    item = resident(client, HELPER)
    assert item is not None
    assert item["expires_at"]
    answer_of(chat(client, model=HELPER, keep_alive=-1))
    later = resident(client, HELPER)
    assert later is not None
    assert later["expires_at"] > item["expires_at"]


@pytest.mark.parametrize("truncate", [True, False])
def test_the_oldest_messages_go_only_where_the_client_lets_them(client: httpx.Client, truncate: bool) -> None:
    old = {"role": "user", "content": "word " * 5000}
    reply = {"role": "assistant", "content": "word " * 4000}
    response = chat(client, model=HELPER, messages=[old, reply, *HELLO], truncate=truncate)
    if not truncate:
        error_of(response, 400, "context_length_exceeded")
    else:
        assert answer_of(response)["llm_optimizer"]["dropped_messages"] == 2
