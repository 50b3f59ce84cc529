"""``/api/tokenize`` and ``/api/detokenize``."""

from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, HELLO, HELPER, answer_of, chat, error_of

BOTH = ("/api/tokenize", "/api/detokenize")


def tokenize(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/api/tokenize", json={"model": GENERATOR, **fields})


def detokenize(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/api/detokenize", json={"model": GENERATOR, **fields})


def tokens_of(client: httpx.Client, **fields: Any) -> list[int]:
    response = tokenize(client, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"model", "tokens", "count"}
    assert body["model"] == fields.get("model", GENERATOR)
    assert body["count"] == len(body["tokens"])
    tokens: list[int] = body["tokens"]
    return tokens


def text_of(client: httpx.Client, tokens: list[int]) -> str:
    response = detokenize(client, tokens=tokens)
    assert response.status_code == 200, response.text
    body = response.json()
    assert set(body) == {"model", "content"}
    content: str = body["content"]
    return content


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "Hello, world!",
            " leading and trailing \n",
            "é🦊漢\u2028\x00\x85",
            "<|im_start|>user\nHi<|im_end|>",
        ),
        "word " * 20_000,
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_text_goes_there_and_back(client: httpx.Client, text: str) -> None:
    assert text_of(client, tokens_of(client, content=text)) == text


@pytest.mark.parametrize("name", ["content", "prompt", "text"])
def test_the_text_has_three_names(client: httpx.Client, name: str) -> None:
    assert tokens_of(client, **{name: "Hello, world!"}) == tokens_of(client, content="Hello, world!")


def test_control_tokens_can_be_read_as_text(client: httpx.Client) -> None:
    assert len(tokens_of(client, content="<|im_end|>")) == 1
    as_text = tokens_of(client, content="<|im_end|>", parse_special=False)
    assert len(as_text) > 1
    assert text_of(client, as_text) == "<|im_end|>"


def test_special_tokens_are_added_where_the_model_adds_them(client: httpx.Client) -> None:
    # This model's vocabulary has no beginning of its own.
    assert tokens_of(client, content="Hi", add_special=True) == tokens_of(client, content="Hi")


def test_half_a_character_is_told_as_such(client: httpx.Client) -> None:
    tokens = tokens_of(client, content="🦊")
    assert len(tokens) > 1
    assert "\ufffd" in text_of(client, tokens[:1])


@pytest.mark.parametrize("model", [GENERATOR, HELPER])
def test_a_chat_is_counted_as_the_model_reads_it(client: httpx.Client, model: str) -> None:
    tokens = tokens_of(client, model=model, messages=HELLO)
    read = answer_of(chat(client, model=model))["prompt_eval_count"]
    assert len(tokens) == read == 33
    assert text_of(client, tokens).endswith(
        "<|im_start|>user\nDefine gravity.<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("path", BOTH)
def test_the_model_is_needed(client: httpx.Client, path: str) -> None:
    body: dict[str, Any] = {"content": "x", "tokens": [1]}
    assert error_of(client.post(path, json=body)) == "model is required"
    assert error_of(client.post(path, json={**body, "model": "nothing"}), 404) == "model 'nothing' not found"
    assert error_of(client.post(path, json={**body, "model": "a b"})) == "invalid model name"
    assert error_of(client.post(path, content=b"")) == "missing request body"
    assert "invalid duration" in error_of(
        client.post(path, json={**body, "model": GENERATOR, "keep_alive": "abc"})
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "give one of content, prompt, text and messages; this request has none of them"),
        (
            {"content": "x", "messages": HELLO},
            "give one of content, prompt, text and messages; this request has content and messages",
        ),
        ({"text": "x", "prompt": "x"}, "this request has prompt and text"),
        ({"content": 5}, "content must be a string, but it is 5"),
        ({"content": "x", "add_special": "no"}, 'add_special must be true or false, but it is "no"'),
        ({"messages": [5]}, "messages.0 must be an object"),
    ],
)
def test_what_cannot_be_split_is_an_error(client: httpx.Client, fields: dict[str, Any], text: str) -> None:
    assert text in error_of(tokenize(client, **fields))


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (None, "tokens is missing"),
        ("x", "tokens must be an array"),
        ([1, "x"], 'tokens.1 must be an integer, but it is "x"'),
        ([1, -1], "tokens: -1 is no token of this model, which has 0 to 49151"),
        ([49152], "tokens: 49152 is no token of this model, which has 0 to 49151"),
        ([10**30], "is no token of this model"),
    ],
)
def test_what_is_no_token_is_an_error(client: httpx.Client, tokens: Any, text: str) -> None:
    assert text in error_of(detokenize(client, tokens=tokens))


@pytest.mark.parametrize("path", BOTH)
def test_a_wrong_method_is_405(client: httpx.Client, path: str) -> None:
    assert "not allowed" in error_of(client.get(path), 405)
