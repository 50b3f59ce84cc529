"""Models over others and of uploaded files, copies, and how they go again."""

import hashlib
import re
from pathlib import Path
from typing import Any

import ollama
import pytest

from bench.tiny_models import write_bert, write_llama
from tests.api.asking import answer_of, error_of, eventually
from tests.api.workshop import BIG, EMBED, PULLED, Workshop, prompt_tokens
from tests.engine.gguf_files import gguf_bytes

HELLO = ("user", "Hello")
TERSE = ("system", "Be terse.")


def uploaded(bench: Workshop, content: bytes, status: int = 201) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert bench.client.post(f"/api/blobs/{digest}", content=content).status_code == status
    return digest


def show(bench: Workshop, name: str, **headers: str) -> dict[str, Any]:
    body: dict[str, Any] = bench.client.post("/api/show", json={"model": name}, headers=headers).json()
    return body


def test_an_alias_puts_its_system_text_in_front(bench: Workshop) -> None:
    assert bench.create("terse", **{"from": BIG, "system": "Be terse."})[-2:] == [
        "writing manifest",
        "success",
    ]
    assert bench.names() == {BIG, EMBED, "terse:latest"}
    assert bench.chat("terse", HELLO)["prompt_eval_count"] == prompt_tokens(TERSE, HELLO)
    own = ("system", "Be long.")
    assert bench.chat("Terse:latest", own, HELLO)["prompt_eval_count"] == prompt_tokens(own, HELLO)
    assert bench.chat(BIG, HELLO)["prompt_eval_count"] == prompt_tokens(HELLO)


def test_generate_has_the_alias_system_text_too_and_may_replace_it(bench: Workshop) -> None:
    bench.create("terse", **{"from": BIG, "system": "Be terse."})

    def count(**body: Any) -> int:
        wanted = {"model": "terse", "prompt": "Hello", "stream": False, "options": {"num_predict": 1}, **body}
        return int(answer_of(bench.client.post("/api/generate", json=wanted))["prompt_eval_count"])

    assert count() == prompt_tokens(TERSE, HELLO)
    assert count(system="Other.") == prompt_tokens(("system", "Other."), HELLO)
    assert count(raw=True) == len("Hello")


def test_examples_stand_before_the_chat(bench: Workshop) -> None:
    examples = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    bench.create("shown", **{"from": BIG, "messages": examples, "system": "Be terse."})
    expected = prompt_tokens(TERSE, ("user", "Hi"), ("assistant", "Ho"), HELLO)
    assert bench.chat("shown", HELLO)["prompt_eval_count"] == expected
    assert show(bench, "shown")["messages"] == examples


def test_parameters_hold_unless_the_request_names_them(bench: Workshop) -> None:
    bench.create("cold", **{"from": BIG, "parameters": {"temperature": 0, "num_predict": 7, "seed": 5}})
    body = {"model": "cold", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    answers = [answer_of(bench.client.post("/api/chat", json=body)) for _ in range(2)]
    assert [answer["eval_count"] for answer in answers] == [7, 7]
    assert answers[0]["message"] == answers[1]["message"]
    assert bench.chat("cold", HELLO, num_predict=3)["eval_count"] == 3
    # A stop string of the model's own ends the answer before the letter that it would have had.
    letter = answers[0]["message"]["content"][2]
    bench.create("stopped", **{"from": "cold", "parameters": {"stop": [letter]}})
    answer = answer_of(bench.client.post("/api/chat", json={**body, "model": "stopped"}))
    assert answer["done_reason"] == "stop"
    assert letter not in answer["message"]["content"]
    free = bench.chat("stopped", HELLO, stop=[], num_predict=7)
    assert free["message"] == answers[0]["message"]


def test_num_ctx_of_an_alias_is_its_window(bench: Workshop) -> None:
    bench.create("wide", **{"from": BIG, "parameters": {"num_ctx": 1536}})
    assert re.search(r"^num_ctx +1536$", show(bench, "wide")["parameters"], re.MULTILINE)
    assert bench.tag("wide:latest")["details"]["context_length"] == 1536
    assert bench.chat("wide", HELLO)["llm_optimizer"]["context_tokens"] == 1536
    assert bench.loaded() == {BIG}
    empty = {"model": BIG, "keep_alive": 0}
    assert answer_of(bench.client.post("/api/generate", json=empty))["done_reason"] == "unload"
    assert eventually(lambda: bench.loaded() == set())
    assert answer_of(bench.client.post("/api/chat", json={"model": "wide"}))["done_reason"] == "load"
    assert bench.chat(BIG, HELLO)["llm_optimizer"]["context_tokens"] == 1536
    assert bench.loaded() == {BIG}


def test_what_show_tells_of_an_alias(bench: Workshop) -> None:
    bench.create(
        "all",
        **{
            "from": BIG,
            "system": 'Say "yes".\nAlways.',
            "parameters": {"temperature": 0.5, "top_k": 7.0, "stop": ["</s>", 'a "b"'], "num_gpu": 1},
            "license": ["MIT", "and more"],
        },
    )
    told = show(bench, "all")
    lines = dict.fromkeys(told["parameters"].splitlines())
    assert {f"{'temperature':<30} 0.5", f"{'top_k':<30} 7", f"{'num_ctx':<30} 1024"} <= lines.keys()
    assert {f'{"stop":<30} "</s>"', f'{"stop":<30} "a \\"b\\""', f"{'num_gpu':<30} 1"} <= lines.keys()
    assert told["system"] == 'Say "yes".\nAlways.'
    assert told["license"] == "MIT\nand more"
    assert 'SYSTEM """Say "yes".\nAlways."""' in told["modelfile"]
    assert "PARAMETER top_k 7" in told["modelfile"]
    assert told["details"]["parent_model"] == BIG
    assert "system" not in show(bench, BIG)
    assert "messages" not in show(bench, BIG)


def test_copilot_reads_a_name_of_its_own(bench: Workshop) -> None:
    told = show(bench, "BIG:7b", **{"user-agent": "GitHubCopilotChat/0.30"})
    assert told["model_info"]["general.basename"] == "BIG:7b"
    assert "general.basename" not in show(bench, "BIG:7b")["model_info"]


def test_what_has_no_effect_is_said(bench: Workshop) -> None:
    statuses = bench.create("x", **{"from": BIG, "parameters": {"num_gpu": 1}, "renderer": "r"})
    assert "without effect here: num_gpu, renderer" in statuses


def test_not_streamed(bench: Workshop) -> None:
    response = bench.client.post("/api/create", json={"name": "x", "from": BIG, "stream": False})
    assert response.json() == {"status": "success"}
    assert "x:latest" in bench.names()


def test_a_model_of_an_uploaded_file(bench: Workshop, tmp_path: Path) -> None:
    content = write_llama(tmp_path / "tiny.gguf").read_bytes() + b"upload"
    digest = uploaded(bench, content)
    assert bench.client.head(f"/api/blobs/{digest}").status_code == 200
    statuses = bench.create("me/mine:q8", files={"tiny.gguf": digest}, system="Be terse.")
    assert statuses == ["parsing GGUF", f"creating new layer {digest}", "writing manifest", "success"]
    assert bench.tag("me/mine:q8")["digest"] == digest.removeprefix("sha256:")
    assert (bench.models_dir / "me+mine@q8.gguf").read_bytes() == content
    answer = bench.chat("me/mine:q8", HELLO)
    assert answer["prompt_eval_count"] == prompt_tokens(TERSE, HELLO)
    assert answer["llm_optimizer"]["strategy"] == answer["llm_optimizer"]["planned"] == "direct"
    assert answer["llm_optimizer"]["reason"] == "a further model is never routed"
    # The same file once more is not sent again, and lies there once.
    assert uploaded(bench, content, status=200) == digest
    bench.create("other", files={"tiny.gguf": digest})
    assert [path.name for path in bench.models_dir.glob("*.gguf") if "mine" in path.name] == [
        "me+mine@q8.gguf"
    ]
    assert not (bench.models_dir / "other@latest.gguf").exists()
    assert list((bench.models_dir / "blobs").iterdir()) == []


def test_a_model_of_another_file_under_the_same_name(bench: Workshop, tmp_path: Path) -> None:
    bench.create("mine", files={"a": uploaded(bench, write_llama(tmp_path / "a.gguf").read_bytes() + b"a")})
    bench.chat("mine", HELLO)
    assert bench.loaded() >= {"mine:latest"}
    content = write_bert(tmp_path / "b.gguf").read_bytes() + b"b"
    bench.create("mine", files={"b": uploaded(bench, content)})
    assert (bench.models_dir / "mine@latest.gguf").read_bytes() == content
    assert bench.tag("mine:latest")["capabilities"] == ["embedding"]
    assert eventually(lambda: "mine:latest" not in bench.loaded())
    vectors = bench.client.post("/api/embed", json={"model": "mine", "input": "x"}).json()["embeddings"]
    assert len(vectors) == 1


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "invalid model name"),
        ({"model": "a b", "from": BIG}, 400, "invalid model name"),
        ({"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        (
            {"model": "x", "from": BIG, "files": {"a": "sha256:" + "0" * 64}},
            400,
            "both 'from' and 'files' were",
        ),
        ({"model": "x", "from": "nothing"}, 404, "model 'nothing' not found"),
        ({"model": "x", "from": "a b"}, 400, "invalid model name"),
        ({"model": "X:cloud", "from": BIG}, 400, "would be a model that runs elsewhere"),
        ({"model": "Big:7B", "from": BIG}, 400, "is the generator of the settings"),
        ({"model": "x", "files": {"a": "sha256:" + "0" * 64}}, 400, '"a" has not been uploaded'),
        ({"model": "x", "files": {"a": "md5:0"}}, 400, 'invalid digest format: "md5:0"'),
        ({"model": "x", "files": {"a": "sha256:0", "b": "sha256:0"}}, 400, "these are 2; merge its parts"),
        ({"model": "x", "from": BIG, "quantize": "q4_0"}, 400, "quantize is not supported"),
        ({"model": "x", "from": BIG, "adapters": {"a": "b"}}, 400, "adapters is not supported"),
        ({"model": "x", "from": BIG, "template": "{{ .Prompt }}"}, 400, "only the model's own template"),
        (
            {"model": "x", "from": BIG, "parameters": {"top_k": "many"}},
            400,
            '"top_k" must be of type integer',
        ),
        ({"model": "x", "from": BIG, "parameters": {"num_ctx": 0}}, 400, "num_ctx"),
        ({"model": "x", "from": BIG, "license": 5}, 400, "license must be a text or a list of texts"),
        ({"model": "x", "from": BIG, "messages": [{"role": "tool"}]}, 400, "messages.0.role"),
        ({"model": "x", "from": BIG, "system": 5}, 400, "system must be a string"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_cannot_be_created(
    bench: Workshop, body: dict[str, Any], status: int, text: str, stream: bool
) -> None:
    assert text in error_of(bench.client.post("/api/create", json={**body, "stream": stream}), status)
    assert bench.names() == {BIG, EMBED}


def test_the_template_that_show_tells_may_come_back(bench: Workshop) -> None:
    bench.create("x", **{"from": BIG, "template": show(bench, BIG)["template"]})
    assert "x:latest" in bench.names()


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"no model at all", "is not a GGUF"), (gguf_bytes({"general.architecture": "clip"}), "is a projector")],
)
def test_a_file_that_is_no_model(bench: Workshop, content: bytes, text: str) -> None:
    digest = uploaded(bench, content)
    steps = bench.steps("/api/create", model="x", files={"a": digest})
    assert steps[0] == {"status": "parsing GGUF"}
    assert list(steps[-1]) == ["error"]
    assert text in steps[-1]["error"]
    assert bench.names() == {BIG, EMBED}
    (bench.models_dir / "blobs" / digest.replace(":", "-")).unlink()


def test_blobs(bench: Workshop) -> None:
    content = b"x" * 3_000_000
    digest = hashlib.sha256(content).hexdigest()
    for spelling in (f"sha256:{digest}", f"sha256-{digest}"):
        assert bench.client.head(f"/api/blobs/{spelling}").status_code == 404
    wrong = f"sha256:{'0' * 64}"
    assert "digest mismatch" in error_of(bench.client.post(f"/api/blobs/{wrong}", content=content))
    assert list((bench.models_dir / "blobs").iterdir()) == []
    pieces = (content[place : place + 100_000] for place in range(0, len(content), 100_000))
    assert bench.client.post(f"/api/blobs/sha256:{digest}", content=pieces).status_code == 201
    assert bench.client.post(f"/api/blobs/sha256:{digest}", content=content).status_code == 200
    [blob] = (bench.models_dir / "blobs").iterdir()
    assert blob.read_bytes() == content
    blob.unlink()
    assert bench.client.head("/api/blobs/sha256:abc").status_code == 400
    assert "invalid digest format" in error_of(bench.client.post("/api/blobs/md5:abc", content=b"x"))


def test_copies(bench: Workshop) -> None:
    bench.create("one", **{"from": BIG, "system": "Be terse."})
    for source, destination in (("one", "two"), (BIG, "me/big"), (EMBED, "vectors")):
        body = {"source": source, "destination": destination}
        response = bench.client.post("/api/copy", json=body)
        assert (response.status_code, response.content) == (200, b"")
    assert bench.names() == {BIG, EMBED, "one:latest", "two:latest", "me/big:latest", "vectors:latest"}
    assert bench.chat("two", HELLO)["prompt_eval_count"] == prompt_tokens(TERSE, HELLO)
    assert bench.delete("vectors").status_code == 200
    assert EMBED in bench.names()


@pytest.mark.parametrize(
    ("source", "destination", "status", "text"),
    [
        (None, "x", 400, 'source "" is invalid'),
        ("a b", "x", 400, 'source "a b" is invalid'),
        (BIG, None, 400, 'destination "" is invalid'),
        (BIG, "a b", 400, 'destination "a b" is invalid'),
        ("nothing", "x", 404, 'model "nothing" not found'),
        (BIG, PULLED, 400, '"qwen3:1.7b" is the helper of the settings'),
    ],
)
def test_what_cannot_be_copied(
    bench: Workshop, source: str | None, destination: str | None, status: int, text: str
) -> None:
    body = {"source": source, "destination": destination}
    assert error_of(bench.client.post("/api/copy", json=body), status).startswith(text)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "model is required"),
        ({"model": ""}, 400, "model is required"),
        ({"model": "a b"}, 400, 'name "a b" is invalid'),
        ({"name": "a b"}, 400, 'name "a b" is invalid'),
        ({"model": "nothing"}, 404, "model 'nothing' not found"),
        ({"model": "x:cloud"}, 404, "model 'x:cloud' not found"),
        (
            {"model": BIG},
            400,
            f'"{BIG}" is the generator of the settings and would come back: change generator.name',
        ),
    ],
)
def test_what_cannot_be_deleted(bench: Workshop, body: dict[str, Any], status: int, text: str) -> None:
    assert error_of(bench.client.request("DELETE", "/api/delete", json=body), status).startswith(text)
    assert BIG in bench.names()


def test_a_loaded_model_is_unloaded_and_deleted(bench: Workshop, tmp_path: Path) -> None:
    digest = uploaded(bench, write_llama(tmp_path / "a.gguf").read_bytes() + b"delete")
    bench.create("mine", files={"a": digest})
    bench.chat("mine", HELLO)
    assert "mine:latest" in bench.loaded()
    response = bench.client.request("DELETE", "/api/delete", json={"name": "mine"})
    assert (response.status_code, response.content) == (200, b"")
    assert "mine:latest" not in bench.loaded()
    assert "mine:latest" not in bench.names()
    assert list(bench.models_dir.glob("mine*")) == []
    assert error_of(bench.client.post("/api/chat", json={"model": "mine"}), 404) == "model 'mine' not found"


def test_an_alias_that_goes_leaves_the_configured_model_alone(bench: Workshop) -> None:
    bench.chat(BIG, HELLO)
    before = bench.loaded()
    bench.create("terse", **{"from": BIG, "system": "Be terse."})
    bench.chat("terse", HELLO)
    assert bench.delete("terse").status_code == 200
    assert bench.loaded() == before
    assert list((bench.models_dir / "catalogue").glob("terse*")) == []


def test_what_belongs_to_ollamas_own_service(bench: Workshop) -> None:
    assert "push is not supported" in error_of(bench.client.post("/api/push", json={"model": BIG}), 501)
    assert "accounts are not supported" in error_of(bench.client.post("/api/me"), 501)
    assert "accounts are not supported" in error_of(bench.client.post("/api/signout"), 501)
    assert bench.client.get("/api/status").json()["cloud"]["disabled"] is True
    assert bench.client.get("/api/delete").status_code == 405
    assert error_of(bench.client.post("/api/experimental/x"), 404)


def test_the_client_library(bench: Workshop, tmp_path: Path) -> None:
    client = ollama.Client(host=bench.server.url, timeout=60)
    assert client.create("terse", from_=BIG, system="Be terse.", parameters={"top_k": 3}).status == "success"
    assert [step.status for step in client.create("again", from_="terse", stream=True)][-1] == "success"
    assert client.copy("again", "third").status == "success"
    digest = client.create_blob(write_llama(tmp_path / "tiny.gguf"))
    assert client.create("mine", files={"tiny.gguf": digest}).status == "success"
    names = {model.model for model in client.list().models}
    assert names == {BIG, EMBED, "terse:latest", "again:latest", "third:latest", "mine:latest"}
    assert "top_k" in (client.show("third").parameters or "")
    for name in ("terse", "again", "third", "mine"):
        assert client.delete(name).status == "success"
    with pytest.raises(ollama.ResponseError, match="not found") as raised:
        client.delete("mine")
    assert raised.value.status_code == 404
    client._client.close()


def test_the_context_length_that_clients_go_by_is_the_one_they_get(bench: Workshop) -> None:
    shown = bench.client.post("/api/show", json={"model": BIG}).json()
    assert shown["model_info"]["llama.context_length"] == shown["details"]["context_length"] == 1024
