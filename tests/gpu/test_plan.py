from pathlib import Path
from typing import Any, NamedTuple

import pytest

from server.engine.gguf.header import GgufHeader, TensorInfo
from server.gpu.plan import MemoryPlan, plan_host_memory, plan_memory, refusal

MIB = 2**20
MARGIN = 256 * MIB
EMBEDDING, OUTPUT, NORM, LAYER = 300 * MIB, 400 * MIB, 1 * MIB, 100 * MIB


def header(*tensors: tuple[str, int], **facts: Any) -> GgufHeader:
    metadata = {
        "general.architecture": "m",
        "m.block_count": 28,
        "m.embedding_length": 3584,
        "m.feed_forward_length": 18944,
        "m.attention.head_count": 28,
        "m.attention.head_count_kv": 4,
        "m.vocab_size": 152064,
    }
    metadata |= {f"m.{key.replace('__', '.')}": value for key, value in facts.items()}
    infos = tuple(TensorInfo(name, (1,), "F32", size_bytes) for name, size_bytes in tensors)
    return GgufHeader(Path("m.gguf"), 0, 3, metadata, infos, 0)


def untied() -> GgufHeader:
    layers = [(f"blk.{layer}.ffn_up.weight", LAYER) for layer in range(28)]
    return header(
        ("token_embd.weight", EMBEDDING), *layers, ("output.weight", OUTPUT), ("output_norm.weight", NORM)
    )


def tied() -> GgufHeader:
    layers = [(f"blk.{layer}.ffn_up.weight", LAYER) for layer in range(28)]
    return header(("token_embd.weight", EMBEDDING), *layers, ("output_norm.weight", NORM))


def plan(model: GgufHeader, **changes: Any) -> MemoryPlan:
    usual: dict[str, Any] = {
        "context_tokens": 32768,
        "kv_type": "f16",
        "batch_tokens": 512,
        "gpu_layers": -1,
        "margin_bytes": MARGIN,
    }
    return plan_memory(model, **(usual | changes))


@pytest.mark.parametrize(
    ("model", "gpu_layers", "weights_bytes", "kv_layers"),
    [
        (untied(), -1, 28 * LAYER + OUTPUT + NORM, 28),
        (untied(), 99, 28 * LAYER + OUTPUT + NORM, 28),
        (untied(), 29, 28 * LAYER + OUTPUT + NORM, 28),
        (untied(), 28, 27 * LAYER + OUTPUT + NORM, 27),
        (untied(), 1, OUTPUT + NORM, 0),
        (untied(), 0, 0, 0),
        (tied(), -1, EMBEDDING + 28 * LAYER + NORM, 28),
        (tied(), 1, EMBEDDING + NORM, 0),
        (tied(), 0, 0, 0),
    ],
)
def test_weights_and_context_go_where_their_layers_go(
    model: GgufHeader, gpu_layers: int, weights_bytes: int, kv_layers: int
) -> None:
    planned = plan(model, gpu_layers=gpu_layers)

    assert planned.weights_bytes == weights_bytes
    assert planned.kv_bytes == 32768 * 2048 * kv_layers


def test_the_host_holds_everything() -> None:
    planned = plan_host_memory(
        untied(), context_tokens=2048, kv_type="f16", batch_tokens=512, margin_bytes=MARGIN
    )

    assert planned.weights_bytes == EMBEDDING + 28 * LAYER + OUTPUT + NORM
    assert planned.kv_bytes == 2048 * 57_344


@pytest.mark.parametrize(
    ("context_tokens", "kv_type", "kv_bytes"),
    [(4096, "f16", 4096 * 57_344), (4096, "q8_0", 4096 * 30_464), (4000, "f16", 4096 * 57_344)],
)
def test_context_is_counted_by_type_and_rounded_up(context_tokens: int, kv_type: str, kv_bytes: int) -> None:
    assert plan(untied(), context_tokens=context_tokens, kv_type=kv_type).kv_bytes == kv_bytes


def test_the_formula() -> None:
    compute_bytes = plan(untied(), context_tokens=4096, kv_type="q8_0", output_tokens=4).compute_bytes

    logits = 4 * 152064 * 4
    activations = 512 * (3 * 18944 + 6 * 3584) * 4
    mask = 4096 * 512 * 6
    conversion = 4096 * 2 * 4 * 128 * 2
    assert compute_bytes == logits + activations + mask + conversion


def test_without_a_count_every_token_may_ask_for_logits() -> None:
    difference = plan(untied()).compute_bytes - plan(untied(), output_tokens=1).compute_bytes

    assert difference == 511 * 152064 * 4


def test_layers_left_in_host_memory_are_copied_through_the_card() -> None:
    assert plan(untied(), gpu_layers=14).compute_bytes - plan(untied()).compute_bytes == LAYER
    assert plan(untied(), gpu_layers=0).compute_bytes - plan(untied()).compute_bytes == OUTPUT + NORM


# Measured with llama.cpp on a CPU: the size that it reports for its compute buffer.
SMOL = {
    "block_count": 30,
    "embedding_length": 576,
    "feed_forward_length": 1536,
    "attention__head_count": 9,
    "attention__head_count_kv": 3,
    "vocab_size": 49152,
}
QWEN = {
    "block_count": 24,
    "embedding_length": 896,
    "feed_forward_length": 4864,
    "attention__head_count": 14,
    "attention__head_count_kv": 2,
    "vocab_size": 151936,
}


class Measured(NamedTuple):
    facts: dict[str, int]
    context_tokens: int
    batch_tokens: int
    output_tokens: int
    kv_type: str
    flash_attention: bool
    compute_mib: float


@pytest.mark.parametrize(
    "measured",
    [
        Measured(SMOL, 2048, 128, 64, "f16", True, 12.42),
        Measured(SMOL, 2048, 512, 512, "f16", True, 102.51),
        Measured(SMOL, 8192, 512, 512, "f16", True, 98.25),
        Measured(SMOL, 8192, 512, 64, "q8_0", True, 20.42),
        Measured(SMOL, 8192, 512, 64, "f16", False, 166.38),
        Measured(SMOL, 8192, 128, 8, "f16", True, 5.38),
        Measured(SMOL, 2048, 512, 1, "f16", True, 15.51),
        Measured(QWEN, 2048, 128, 64, "f16", True, 37.75),
        Measured(QWEN, 8192, 512, 512, "f16", True, 300.25),
        Measured(QWEN, 8192, 512, 64, "q8_0", True, 41.79),
        Measured(QWEN, 8192, 512, 64, "f16", False, 249.26),
        Measured(QWEN, 8192, 128, 8, "f16", True, 10.88),
        Measured(QWEN, 2048, 512, 1, "f16", True, 37.51),
    ],
)
def test_compute_is_planned_above_what_was_measured_but_not_wildly(measured: Measured) -> None:
    planned = plan(
        header(**measured.facts),
        context_tokens=measured.context_tokens,
        batch_tokens=measured.batch_tokens,
        output_tokens=measured.output_tokens,
        kv_type=measured.kv_type,
        flash_attention=measured.flash_attention,
    )

    assert measured.compute_mib <= planned.compute_bytes / MIB <= 1.4 * measured.compute_mib + 50


def test_a_header_that_says_nothing_is_planned_by_its_tensors() -> None:
    bare = GgufHeader(Path("m.gguf"), 0, 3, {}, (TensorInfo("w", (1,), "F32", LAYER),), 0)
    planned = plan(bare, output_tokens=1)

    assert (planned.weights_bytes, planned.kv_bytes) == (LAYER, 0)


def test_a_hostile_header_is_planned_in_no_time() -> None:
    hostile = header(("blk." + "9" * 5000 + ".w", LAYER), block_count=2**60)

    assert plan(hostile, gpu_layers=0).weights_bytes == 0


PLAN = MemoryPlan(4467 * MIB, 1792 * MIB, 120 * MIB, MARGIN)


def test_total() -> None:
    assert PLAN.total_bytes == 6635 * MIB


def test_what_does_not_fit_is_refused_with_numbers_and_remedy() -> None:
    assert refusal(PLAN, 2048 * MIB, "cuda:0", "generator") == (
        "needs 6635 MiB on cuda:0 (weights 4467, context 1792, compute 120, margin 256) "
        "but 2048 MiB are free; lower generator.context or generator.gpu_layers, or choose a smaller GGUF"
    )


def test_the_cpu_has_no_layers_to_move() -> None:
    text = refusal(PLAN, 6635 * MIB - 1, "cpu", "helper")

    assert text is not None
    assert text.endswith("but 6634 MiB are free; lower helper.context, or choose a smaller GGUF")


@pytest.mark.parametrize("free_bytes", [6635 * MIB, 8192 * MIB, None])
def test_what_fits_or_is_unknown_is_not_refused(free_bytes: int | None) -> None:
    assert refusal(PLAN, free_bytes, "cuda:0", "generator") is None
