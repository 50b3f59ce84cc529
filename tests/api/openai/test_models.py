"""``/v1/models``, and what holds for every route of the dialect."""

from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, HELPER
from tests.api.openai.asking import answer_of, error_of

POSTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")


def test_models_are_those_that_ollama_lists(client: httpx.Client) -> None:
    listed = answer_of(client.get("/v1/models"))
    assert listed["object"] == "list"
    tags = client.get("/api/tags").json()["models"]
    assert [model["id"] for model in listed["data"]] == [tag["name"] for tag in tags]
    for model in listed["data"]:
        assert (model["object"], model["owned_by"]) == ("model", "library")
        assert type(model["created"]) is int


@pytest.mark.parametrize("name", [GENERATOR, HELPER, "SMOLLM2:135M", "library/smollm2:135m"])
def test_one_model_has_the_name_that_it_was_asked_by(client: httpx.Client, name: str) -> None:
    assert answer_of(client.get(f"/v1/models/{name}"))["id"] == name


@pytest.mark.parametrize("name", ["nothing", "me/nothing:latest"])
def test_an_unknown_model_is_not_found(client: httpx.Client, name: str) -> None:
    assert error_of(client.get(f"/v1/models/{name}"), 404, "model_not_found") == f"model '{name}' not found"


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": 5}', b"\xff"])
def test_what_is_no_request_is_an_error(client: httpx.Client, path: str, body: bytes) -> None:
    error_of(client.post(path, content=body))


@pytest.mark.parametrize("path", POSTS)
def test_a_packed_body_is_refused_not_misread(client: httpx.Client, path: str) -> None:
    text = error_of(client.post(path, content=b"\x0b", headers={"Content-Encoding": "br"}))
    assert text.startswith("Content-Encoding: br is not supported; send the body as it is, or as gzip")


@pytest.mark.parametrize(
    ("method", "path"),
    [*(("GET", path) for path in POSTS), ("POST", "/v1/models"), ("DELETE", "/v1/models/x")],
)
def test_a_wrong_method_is_405(client: httpx.Client, method: str, path: str) -> None:
    assert "not allowed" in error_of(client.request(method, path), 405)


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/audio/transcriptions", "/v1/responses/resp_1"])
def test_an_unknown_path_is_404(client: httpx.Client, path: str) -> None:
    assert error_of(client.post(path, json={}), 404) == f"{path} not found"


def embed(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/embeddings", json={"model": GENERATOR, "input": "Hi", **fields})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "null": ({"input": None}, "invalid input: it must be a string or an array of strings, but it is null"),
    "nothing": ({"input": []}, "invalid input"),
    "tokens": ({"input": [1, 2]}, "send the text where you have token ids"),
    "lists of tokens": ({"input": [[1, 2]]}, "send the text where you have token ids"),
    "mixed": ({"input": ["a", 5]}, "invalid input"),
    "form": ({"encoding_format": "int8"}, 'encoding_format must be "float" or "base64", but it is "int8"'),
    "no size": ({"dimensions": 0}, "dimensions must be at least 1, but it is 0"),
    "no number": ({"dimensions": "x"}, "dimensions must be an integer"),
    "no model": ({"model": None}, "model is required"),
    "options": ({"options": {"num_ctx": "x"}}, 'option "num_ctx" must be of type integer'),
    "keep_alive": ({"keep_alive": "abc"}, "invalid duration"),
}


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_embeddings_of_a_wrong_shape_are_errors(
    client: httpx.Client, fields: dict[str, Any], words: str
) -> None:
    assert words in error_of(embed(client, **fields))


def test_embeddings_of_an_unknown_model_are_not_found(client: httpx.Client) -> None:
    assert "not found" in error_of(embed(client, model="nothing"), 404, "model_not_found")
