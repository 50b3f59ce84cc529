"""Names, and what the server tells about its models."""

import re
from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, HELPER, answer_of, chat, chat_body, error_of, generate, resident

EQUIVALENTS = (
    "smollm2:135m",
    "SmolLM2:135M",
    "library/smollm2:135m",
    "LIBRARY/smollm2:135m",
    "registry.ollama.ai/library/smollm2:135m",
    "Registry.Ollama.AI/Library/SMOLLM2:135M",
    "http://registry.ollama.ai/library/smollm2:135m",
    "smollm2:135m:local",
    "  smollm2:135m ",
)
ILLEGAL = (
    "a b",
    "smollm2:135m:x",
    "-x",
    ".x",
    "smollm2:",
    "smollm2:135m/",
    "/smollm2:135m",
    "a//b",
    "a/b/c/d",
    "a/b.c/d",
)
ILLEGAL += ("é", "x" * 81, "x:" + "y" * 81, "a/" + "b" * 81 + "/c", " ", "../../etc/passwd", "x\x00", "x\n:y")
UNKNOWN = (
    "nothing",
    "smollm2",
    "smollm2:1.7b",
    "me/smollm2:135m",
    "hf.co/org/smollm2:135m",
    "x:cloud",
    "smollm2:135m-cloud",
)

TAKES_NAMES = ("/api/chat", "/api/generate", "/api/show")


def ask_for(client: httpx.Client, path: str, name: str, key: str = "model") -> httpx.Response:
    return client.post(path, json={**chat_body(), "prompt": "Hi", "model": None, key: name})


@pytest.mark.parametrize("path", TAKES_NAMES)
@pytest.mark.parametrize("name", EQUIVALENTS)
def test_a_name_has_many_spellings_and_is_echoed_as_it_came(
    client: httpx.Client, path: str, name: str
) -> None:
    response = ask_for(client, path, name)
    assert response.status_code == 200
    if path != "/api/show":
        assert answer_of(response)["model"] == name


@pytest.mark.parametrize("path", TAKES_NAMES)
@pytest.mark.parametrize("name", ILLEGAL, ids=ascii)
def test_an_illegal_name_is_an_error(client: httpx.Client, path: str, name: str) -> None:
    assert error_of(ask_for(client, path, name)) == "invalid model name"


@pytest.mark.parametrize("path", TAKES_NAMES)
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_model_is_404(client: httpx.Client, path: str, name: str) -> None:
    shown = name if path != "/api/show" or ":" in name else f"{name}:latest"
    assert error_of(ask_for(client, path, name), 404) == f"model '{shown}' not found"


@pytest.mark.parametrize("path", TAKES_NAMES)
@pytest.mark.parametrize("name", ["smollm2:cloud:local", "smollm2:135m-cloud:local"])
def test_a_model_cannot_be_here_and_elsewhere(client: httpx.Client, path: str, name: str) -> None:
    text = error_of(ask_for(client, path, name), 400)
    assert text == "invalid model name: use either :local or :cloud, not both"


@pytest.mark.parametrize("name", ["", None])
@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/api/generate", 404, "model '' not found"),
        ("/api/chat", 400, "model is required"),
        ("/api/show", 400, "model is required"),
    ],
)
def test_a_missing_name(client: httpx.Client, path: str, status: int, text: str, name: str | None) -> None:
    assert error_of(client.post(path, json={"model": name}), status) == text
    assert error_of(client.post(path, json={}), status) == text


def test_show_takes_the_older_key(client: httpx.Client) -> None:
    assert ask_for(client, "/api/show", GENERATOR, key="name").status_code == 200
    assert error_of(ask_for(client, "/api/show", "nothing", key="name"), 404)


def test_tags(client: httpx.Client) -> None:
    models = client.get("/api/tags").json()["models"]
    assert {model["name"] for model in models} == {GENERATOR, HELPER}
    for model in models:
        assert model["model"] == model["name"]
        assert model["size"] > 90_000_000
        assert re.fullmatch("[0-9a-f]{64}", model["digest"])
        assert model["capabilities"] == ["completion"]
        assert "expires_at" not in model
        details = model["details"]
        assert details["format"] == "gguf"
        assert details["family"] == "llama"
        assert details["families"] == ["llama"]
        assert details["parameter_size"] == "135M"
        assert details["quantization_level"] == "Q4_1"
        assert details["parent_model"] == ""
    assert [model["modified_at"] for model in models] == sorted(
        (model["modified_at"] for model in models), reverse=True
    )


def test_ps_lists_what_is_loaded(client: httpx.Client) -> None:
    answer_of(chat(client))
    item = resident(client, GENERATOR)
    assert item is not None
    assert item["model"] == GENERATOR
    assert item["size"] > 90_000_000
    assert item["size_vram"] == 0
    assert item["context_length"] == 8192
    tag = next(tag for tag in client.get("/api/tags").json()["models"] if tag["name"] == GENERATOR)
    assert (item["digest"], item["details"]) == (tag["digest"], tag["details"])


@pytest.fixture(scope="module")
def shown(client: httpx.Client) -> dict[str, Any]:
    body: dict[str, Any] = client.post("/api/show", json={"model": GENERATOR}).json()
    return body


def test_show_has_what_clients_read(shown: dict[str, Any]) -> None:
    assert shown["capabilities"] == ["completion"]
    assert "messages" in shown["template"]
    assert shown["modelfile"].startswith("FROM ")
    assert shown["license"] == "apache-2.0"
    assert shown["details"]["format"] == "gguf"
    assert shown["modified_at"]


def test_show_parameters_are_a_name_and_a_value_a_line(shown: dict[str, Any]) -> None:
    for line in shown["parameters"].splitlines():
        assert re.fullmatch(r"\w+ +\S.*", line)
        assert line[30] == " "
    assert re.search(r"^num_ctx +8192$", shown["parameters"], re.MULTILINE)


def test_show_model_info_is_the_gguf(shown: dict[str, Any]) -> None:
    info = shown["model_info"]
    assert info["general.architecture"] == "llama"
    assert info["general.parameter_count"] == 134_515_008
    assert info["general.file_type"] == 3
    assert info["llama.context_length"] == 8192
    assert info["llama.embedding_length"] == 576
    assert info["llama.block_count"] == 30
    assert info["llama.attention.head_count"] == 9
    assert info["tokenizer.ggml.tokens"] in (None, [])
    assert not {"general.name", "tokenizer.chat_template"} & info.keys()


def test_show_tells_what_a_model_would_be_like(client: httpx.Client) -> None:
    given = {"system": "Be brief.", "options": {"top_k": 1, "num_ctx": 512}}
    shown = client.post("/api/show", json={"model": GENERATOR, **given}).json()
    assert shown["system"] == "Be brief."
    assert {"top_k", "num_ctx"} <= {line.split()[0] for line in shown["parameters"].splitlines()}
    assert "PARAMETER num_ctx 512\n" in shown["modelfile"]


def test_show_verbose_has_long_arrays_and_tensors(client: httpx.Client) -> None:
    body = client.post("/api/show", json={"model": GENERATOR, "verbose": True}).json()
    assert len(body["model_info"]["tokenizer.ggml.tokens"]) == 49152
    assert all({"name", "type", "shape"} <= tensor.keys() for tensor in body["tensors"])


def test_the_helper_answers_by_its_name(client: httpx.Client) -> None:
    assert answer_of(chat(client, model=HELPER))["llm_optimizer"]["strategy"] == "direct"
    assert answer_of(generate(client, model=HELPER))["model"] == HELPER
