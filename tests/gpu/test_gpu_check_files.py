"""The models that the GPU check writes, and what it builds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.build_llama_server import BuildFailed
from bench.gpu_check import build as building
from bench.gpu_check.cards import GENERATOR, HELPER, places
from bench.gpu_check.sources import BACKENDS, LLAMA_CPP, NEEDED, VOCABULARY, prune
from bench.gpu_check.subjects import write_subjects
from bench.real_shapes import CODER_7B, scaled_down, write_real_shape
from server.engine.gguf.reader import read_header
from server.gpu.nvml import GpuReading

MIB = 2**20
RTX = GpuReading(0, uuid="GPU-2060", pci_bus_id="0000:01:00.0", memory_total_bytes=8192 * MIB)


def test_a_real_vocabulary_is_filled_up_to_the_rows_of_the_matrices(
    embedded_model: Path, tmp_path: Path
) -> None:
    texts = read_header(embedded_model).metadata
    shape = replace(scaled_down(CODER_7B), vocabulary=50_000)

    header = read_header(write_real_shape(tmp_path / "m.gguf", shape, texts=texts))

    tokens = header.metadata["tokenizer.ggml.tokens"].decode()
    assert len(tokens) == len(header.metadata["tokenizer.ggml.token_type"].decode()) == 50_000
    assert tokens[:49_152] == texts["tokenizer.ggml.tokens"].decode()
    assert tokens[-1] == "[PAD49999]"
    assert header.chat_template == texts["tokenizer.chat_template"]


def test_without_a_card_the_exact_shapes_take_no_room(embedded_model: Path, tmp_path: Path) -> None:
    subjects = write_subjects(tmp_path, places([], []), read_header(embedded_model).metadata)

    exact = subjects[GENERATOR].exact.stat()
    assert exact.st_size == pytest.approx(4_680_000_000, rel=0.01)
    assert exact.st_blocks * 512 < 10_000_000
    assert subjects[HELPER].path.stat().st_size < 100_000_000
    assert subjects[HELPER].keys()["device"] == "cpu"


def test_on_a_card_all_is_set_as_by_default(tmp_path: Path) -> None:
    [generator] = [
        subject
        for subject in write_subjects(tmp_path, places([], []), {**_made_up_texts(tmp_path)}).values()
        if subject.role == GENERATOR
    ]
    on_card = replace(generator, place=places([RTX], [])[GENERATOR])
    assert on_card.keys() == {"path": str(generator.path), "device": "GPU-2060"}


def _made_up_texts(folder: Path) -> dict[str, Any]:
    return dict(read_header(write_real_shape(folder / "texts.gguf", scaled_down(CODER_7B))).metadata)


def test_the_sources_are_pruned_to_what_is_needed(tmp_path: Path) -> None:
    whole, target = tmp_path / "whole", tmp_path / "target"
    for needed in (*NEEDED, LLAMA_CPP / "docs", LLAMA_CPP / "tools" / "server"):
        if needed == VOCABULARY:
            (whole / needed).parent.mkdir(parents=True)
            (whole / needed).write_text("vocabulary")
        else:
            (whole / needed).mkdir(parents=True)
    for backend in (*BACKENDS, "ggml-vulkan"):
        (whole / LLAMA_CPP / "ggml" / "src" / backend).mkdir(parents=True)

    prune(whole, target)

    assert all((target / needed).exists() for needed in NEEDED)
    assert not (target / LLAMA_CPP / "docs").exists()
    assert {path.name for path in (target / LLAMA_CPP / "ggml" / "src").iterdir()} == BACKENDS


def test_the_binding_finds_the_libraries_that_were_built(tmp_path: Path) -> None:
    (tmp_path / "sources" / "llama_cpp").mkdir(parents=True)
    (tmp_path / "sources" / "llama_cpp" / "__init__.py").touch()
    (tmp_path / "build" / "bin").mkdir(parents=True)
    (tmp_path / "build" / "bin" / "libllama.so").touch()

    building.make_importable(tmp_path / "sources", tmp_path / "build")

    assert (tmp_path / "build" / "python" / "llama_cpp" / "lib" / "libllama.so").exists()


def test_what_is_built_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []
    monkeypatch.setattr(building, "run", lambda command, _: commands.append(command[1]))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    (tmp_path / "sources" / "llama_cpp").mkdir(parents=True)

    def build(name: str) -> building.Build:
        return building.build(tmp_path / "sources", tmp_path / name, None, cuda=False)

    assert building.finished(tmp_path / "a") is None
    built = build("a")
    assert build("a") == built == building.finished(tmp_path / "a")
    assert commands == ["--fresh", "--build"]
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_AVX2=OFF")
    build("a")
    assert commands == ["--fresh", "--build"] * 2


def test_a_build_that_fails_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_command: list[str], _folder: Path) -> None:
        raise BuildFailed("no compiler")

    monkeypatch.setattr(building, "run", fail)
    with pytest.raises(BuildFailed):
        building.build(tmp_path, tmp_path / "a", None, cuda=False)
    assert building.finished(tmp_path / "a") is None
