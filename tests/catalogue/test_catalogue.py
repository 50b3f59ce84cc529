"""The models of the settings and their files."""

import os
from pathlib import Path
from typing import Any

import pytest

import server.catalogue.files
from server.catalogue import Catalogue, Role
from server.chat.template import CHATML, ChatTemplate
from server.config import Settings
from server.domain.chat import Message
from server.domain.errors import InvalidRequest, ModelLoadFailed, ModelNotFound
from tests.engine.gguf_files import Tensor, write_gguf

TENSORS = (Tensor("token_embd.weight", (64, 50_000)),)
PLAIN = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b"]}


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(
        Settings.model_validate(
            {
                "models_dir": str(tmp_path / "models"),
                "generator": {**entry("Big:7b", tmp_path / "big.gguf"), "device": "cpu"},
                "helper": {**entry("me/small", tmp_path / "small.gguf"), "device": "cpu"},
            }
        )
    )


def entry(model: str, path: Path) -> dict[str, Any]:
    return {"name": model, "path": str(path), "context": 4096, "memory_margin_mib": 512}


def write(catalogue: Catalogue, role: Role, metadata: dict[str, Any], tensors: Any = TENSORS) -> Path:
    return write_gguf(catalogue.of(role).settings.path, metadata, tensors)


def test_finding(catalogue: Catalogue) -> None:
    assert catalogue.find("big:7B").role is Role.GENERATOR
    assert catalogue.find("ME/small:latest").role is Role.HELPER
    for unknown in ("big", "small", "big:7b-cloud", "big:cloud"):
        with pytest.raises(ModelNotFound, match=f"model '{unknown}' not found"):
            catalogue.find(unknown)
    with pytest.raises(InvalidRequest):
        catalogue.find("")


def test_a_file_is_read_once(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    files = server.catalogue.files
    read_header = files.read_header
    monkeypatch.setattr(files, "read_header", lambda path: reads.append(path) or read_header(path))
    path = write(catalogue, Role.GENERATOR, PLAIN)
    generator = catalogue.of(Role.GENERATOR)
    first = catalogue.inspect(generator)
    assert catalogue.inspect(generator) == first
    assert reads == [path]


def test_a_changed_file_is_read_again(catalogue: Catalogue) -> None:
    generator = catalogue.of(Role.GENERATOR)
    path = write(catalogue, Role.GENERATOR, PLAIN)
    first = catalogue.inspect(generator)
    write(catalogue, Role.GENERATOR, {**PLAIN, "general.name": "New"})
    second = catalogue.inspect(generator)
    assert (first.header.name, second.header.name) == (None, "New")
    assert first.digest != second.digest
    os.utime(path, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
    third = catalogue.inspect(generator)
    assert third.digest == second.digest
    assert third.modified_at.timestamp() == 1_700_000_000
    assert third.modified_at.tzinfo is not None


def test_a_file_that_goes_away(catalogue: Catalogue) -> None:
    path = write(catalogue, Role.GENERATOR, PLAIN)
    catalogue.inspect(catalogue.of(Role.GENERATOR))
    path.unlink()
    with pytest.raises(ModelLoadFailed, match=r"big\.gguf"):
        catalogue.inspect(catalogue.of(Role.GENERATOR))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model" * 100])
def test_no_model(catalogue: Catalogue, content: bytes) -> None:
    catalogue.of(Role.GENERATOR).settings.path.write_bytes(content)
    with pytest.raises(ModelLoadFailed):
        catalogue.inspect(catalogue.of(Role.GENERATOR))
    assert catalogue.installed() == ()


def test_a_folder_is_no_model(catalogue: Catalogue) -> None:
    catalogue.of(Role.GENERATOR).settings.path.mkdir()
    with pytest.raises(ModelLoadFailed):
        catalogue.inspect(catalogue.of(Role.GENERATOR))


def test_installed_models_the_newest_first(catalogue: Catalogue) -> None:
    assert catalogue.installed() == ()
    big = write(catalogue, Role.GENERATOR, PLAIN)
    assert [model.entry.role for model in catalogue.installed()] == [Role.GENERATOR]
    small = write(catalogue, Role.HELPER, PLAIN)
    os.utime(big, (1000, 1000))
    os.utime(small, (2000, 2000))
    assert [model.entry.role for model in catalogue.installed()] == [Role.HELPER, Role.GENERATOR]
    os.utime(big, (3000, 3000))
    assert [model.entry.role for model in catalogue.installed()] == [Role.GENERATOR, Role.HELPER]


def test_digests(catalogue: Catalogue) -> None:
    """The same file has the same digest wherever it lies; another size, header or weight another one."""
    generator, helper = catalogue.of(Role.GENERATOR), catalogue.of(Role.HELPER)
    path = write(catalogue, Role.GENERATOR, PLAIN)
    write(catalogue, Role.HELPER, PLAIN)
    header = catalogue.inspect(generator).header
    original = catalogue.inspect(generator).digest
    assert catalogue.inspect(helper).digest == original
    assert len(original) == 64
    assert set(original) <= set("0123456789abcdef")

    digests = {original}
    content = path.read_bytes()
    half = header.data_offset + (header.size_bytes - header.data_offset) // 16 * 8
    for moment, changed in enumerate(
        (
            content[:-1] + b"x",
            content + b"x",
            content[:half] + b"x" + content[half + 1 :],
            content.replace(b"llama", b"qwen2", 1),
        )
    ):
        path.write_bytes(changed)
        os.utime(path, ns=(moment, moment))
        digests.add(catalogue.inspect(generator).digest)
    assert len(digests) == 5


TOKENS = [f"token {number}" for number in range(600)]


@pytest.mark.parametrize(
    ("metadata", "capabilities"),
    [
        ({}, ("completion",)),
        ({"tokenizer.chat_template": "{{ messages }}"}, ("completion",)),
        ({"tokenizer.chat_template": "{% if tools %}{% endif %}"}, ("completion", "tools")),
        ({"tokenizer.chat_template": "<think>"}, ("completion", "thinking")),
        (
            {"tokenizer.chat_template": "{{ enable_thinking }}{{ tools }}"},
            ("completion", "tools", "thinking"),
        ),
        ({"tokenizer.chat_template": "{{ broken tools"}, ("completion", "tools")),
        ({"tokenizer.ggml.tokens": ["a", "<|fim_prefix|>"]}, ("completion", "insert")),
        ({"tokenizer.ggml.tokens": [*TOKENS, "<fim_prefix>"]}, ("completion", "insert")),
        ({"tokenizer.ggml.tokens": TOKENS}, ("completion",)),
        ({"tokenizer.ggml.fim_pre_token_id": 7}, ("completion", "insert")),
        ({"llama.pooling_type": 1}, ("embedding",)),
        ({"llama.pooling_type": 0}, ("completion",)),
    ],
)
def test_capabilities(catalogue: Catalogue, metadata: dict[str, Any], capabilities: tuple[str, ...]) -> None:
    write(catalogue, Role.GENERATOR, {**PLAIN, **metadata})
    assert catalogue.inspect(catalogue.of(Role.GENERATOR)).capabilities == capabilities


def test_a_model_that_fills_gaps_says_so_where_continue_looks(catalogue: Catalogue) -> None:
    write(catalogue, Role.GENERATOR, {**PLAIN, "tokenizer.chat_template": "{{ messages[0].content }}"})
    plain = catalogue.inspect(catalogue.of(Role.GENERATOR))
    assert plain.shown_template == plain.template
    infill = {"tokenizer.chat_template": plain.template, "tokenizer.ggml.fim_pre_token_id": 7}
    write(catalogue, Role.HELPER, {**PLAIN, **infill})
    shown = catalogue.inspect(catalogue.of(Role.HELPER)).shown_template
    assert ".Suffix" in shown
    assert ChatTemplate(shown).render([Message("user", "Hi")]).strip() == "Hi"


def test_a_model_without_a_template_speaks_chatml(catalogue: Catalogue) -> None:
    write(catalogue, Role.GENERATOR, PLAIN)
    assert catalogue.inspect(catalogue.of(Role.GENERATOR)).template == CHATML
    write(catalogue, Role.HELPER, {**PLAIN, "tokenizer.chat_template": "own"})
    assert catalogue.inspect(catalogue.of(Role.HELPER)).template == "own"


def test_the_embedded_model(embedded_model: Path) -> None:
    generator = {**entry("smol", embedded_model), "device": "cpu"}
    settings = Settings.model_validate({"generator": generator, "helper": {**generator, "name": "smol2"}})
    catalogue = Catalogue(settings)
    first, second = (catalogue.inspect(entry) for entry in catalogue.configured)
    assert first.digest == second.digest
    assert "completion" in first.capabilities
    assert first.header.architecture == "llama"
