"""The memory plan against llama.cpp's own words, from dry loads."""

import multiprocessing
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench import tiny_models
from bench.memory import Comparison, compare, native_shape, shapes
from bench.real_shapes import CODER_7B, QWEN3_1_7B, RealShape, write_real_shape
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import DecodeResult
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.rehearsal import Allocation, Rehearsal, allocation_of
from server.gpu.compute import Shape
from server.gpu.plan import plan_host_memory
from tests.running import PROJECT

MIB = 2**20
QWEN = PROJECT / "models" / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"

FEW = [
    Shape(2048, 128, 20, 20),
    Shape(8192, 512, 71, 20),
    Shape(8192, 512, 67, 12, kv_type="q8_0", flash_attention="on"),
    Shape(8192, 512, 71, 20, flash_attention="off"),
    Shape(8192, 2048, 2048, 20, kv_type="q4_0"),
    Shape(1000, 512, 512, 4),
]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


def own_bytes() -> int:
    """Memory of this process, pages of files not counted."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def wrong(comparisons: list[Comparison]) -> list[Comparison]:
    return [found for found in comparisons if not found.within]


def test_the_embedded_model_takes_what_was_planned(library: Library, embedded_model: Path) -> None:
    found = list(compare(library, embedded_model, FEW))

    assert wrong(found) == []
    # Far nearer than it has to be: what is allowed for large models would let anything pass for this one.
    assert all(-13 * MIB <= row.off_bytes <= 5 * MIB for row in found)
    assert all(abs(row.planned_kv - row.real_kv) <= 0.01 * MIB for row in found)


def test_a_dry_load_says_what_a_real_one_says(library: Library, embedded_model: Path) -> None:
    shape = native_shape(Shape(2048, 128, 71, 20, kv_type="q8_0"), on_gpu=False)
    with Rehearsal(library, embedded_model) as rehearsal:
        dry = rehearsal.allocation(shape)
    model = library.load_model(embedded_model, "CPU", 0)
    with library.log.hearing() as lines:
        model.new_context(shape).close()
    model.close()

    assert "CPU KV buffer size =    23.91 MiB" in "\n".join(lines)
    assert dry == allocation_of(lines, model.size_bytes)
    assert dry.memory_bytes == pytest.approx(23.91 * MIB, abs=0.01 * MIB)


def test_a_dry_load_takes_next_to_nothing(library: Library, tmp_path: Path) -> None:
    path = write_real_shape(tmp_path / "7b.gguf", CODER_7B)
    before = own_bytes()
    with Rehearsal(library, path) as rehearsal:
        found = rehearsal.allocation(native_shape(Shape(32768, 512, 71, 20), on_gpu=False))

        assert found.weights_bytes == pytest.approx(4460.4 * MIB, abs=MIB)
        assert found.memory_bytes == 1792 * MIB
        assert own_bytes() - before < 200 * MIB


def test_the_log_of_a_card_is_told_apart_from_the_hosts() -> None:
    lines = [
        "llama_context:  CUDA_Host  output buffer size =    11.59 MiB",
        "llama_kv_cache: size =  100.00 MiB (  8192 cells,  20 layers, 20/1 seqs), K (f16):   50.00 MiB, ...",
        "llama_kv_cache: size =   80.00 MiB (  1024 cells,   4 layers, 20/1 seqs), K (f16):   40.00 MiB, ...",
        "llama_memory_recurrent: size =   20.00 MiB (    20 cells,   4 layers, 20 seqs), R (f32): ...",
        "sched_reserve:      CUDA0 compute buffer size =   300.75 MiB",
        "sched_reserve:  CUDA_Host compute buffer size =    64.25 MiB",
        "sched_reserve:        CPU compute buffer size =     1.00 MiB",
    ]
    mib = (1, 200, 300.75, 65.25, 11.59)
    assert allocation_of(lines, MIB) == Allocation(*(round(size * MIB) for size in mib))


@pytest.mark.parametrize(
    "write",
    [
        tiny_models.write_llama,
        tiny_models.write_gemma3,
        tiny_models.write_mamba,
        tiny_models.write_lfm2,
        tiny_models.write_qwen3,
    ],
)
def test_cache_and_states_of_every_architecture_are_exact(
    library: Library, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    for found in compare(library, write(tmp_path / "tiny.gguf"), [Shape(2048, 128, 20, 20)]):
        assert abs(found.planned_kv - found.real_kv) <= 0.02 * MIB


@pytest.mark.parametrize("write", [tiny_models.write_bert, tiny_models.write_qwen3])
def test_models_that_embed_take_what_was_planned(
    library: Library, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    shape = Shape(256, 256, 256, 32, embeds=True)
    for found in compare(library, write(tmp_path / "tiny.gguf"), [shape]):
        assert abs(found.off_bytes) <= 0.5 * MIB


def all_shapes(path: Path) -> list[Shape]:
    return list(shapes(read_header(path).context_length or 0))


@pytest.mark.slow
def test_qwen_takes_what_was_planned(library: Library) -> None:
    if not QWEN.exists():
        pytest.skip(f"{QWEN} is not there")
    assert wrong(list(compare(library, QWEN, all_shapes(QWEN)))) == []


@pytest.mark.slow
@pytest.mark.parametrize("real", [CODER_7B, QWEN3_1_7B, replace(QWEN3_1_7B, tied=False)])
def test_the_shapes_of_the_real_models_take_what_was_planned(
    library: Library, tmp_path: Path, real: RealShape
) -> None:
    path = write_real_shape(tmp_path / "shape.gguf", real)

    assert wrong(list(compare(library, path, all_shapes(path)))) == []


def taken_by_a_step(path: Path, shape: Shape) -> int:
    """What a context and its first whole batch take of a process beside the weights."""
    model = Library().load_model(path, "CPU", 0)
    before = own_bytes()
    context = model.new_context(native_shape(shape, on_gpu=False))
    batch = Batch(shape.batch_tokens)
    few = shape.output_tokens
    batch.add(range(5, 5 + shape.batch_tokens - few), 0, 0, outputs=0)
    batch.add(range(5, 5 + few), shape.batch_tokens - few, 0, outputs=few)
    if context.decode(batch) is not DecodeResult.DONE:
        raise AssertionError
    return own_bytes() - before


def in_a_process_of_its_own(path: Path, shape: Shape) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(taken_by_a_step, (path, shape))


def test_a_process_takes_what_was_planned(embedded_model: Path) -> None:
    shape = Shape(2048, 256, 71, 20)
    planned = plan_host_memory(read_header(embedded_model), shape, margin_bytes=0).working_bytes

    assert in_a_process_of_its_own(embedded_model, shape) == pytest.approx(planned, abs=8 * MIB)


@pytest.mark.slow
def test_the_helper_takes_what_was_planned(tmp_path: Path) -> None:
    path = write_real_shape(tmp_path / "1.7b.gguf", QWEN3_1_7B, filled=True)
    shape = Shape(4096, 512, 12, 12, kv_type="q8_0")
    planned = plan_host_memory(read_header(path), shape, margin_bytes=0).working_bytes

    assert in_a_process_of_its_own(path, shape) == pytest.approx(planned, abs=32 * MIB)
