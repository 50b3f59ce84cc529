from pathlib import Path
from typing import Any

import pytest

from server.engine.gguf.header import GgufHeader, TensorInfo
from server.gpu.compute import Shape
from server.gpu.plan import MemoryPlan, plan_beside_gpu, plan_host_memory, plan_memory, refusal

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


def shape(**changes: Any) -> Shape:
    usual: dict[str, Any] = {
        "context_tokens": 32768,
        "batch_tokens": 512,
        "output_tokens": 64,
        "sequences": 4,
    }
    return Shape(**(usual | changes))


def plan(model: GgufHeader, **changes: Any) -> MemoryPlan:
    return plan_memory(model, shape(**changes), margin_bytes=MARGIN)


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
    planned = plan_host_memory(untied(), shape(context_tokens=2048), margin_bytes=MARGIN)

    assert planned.weights_bytes == EMBEDDING + 28 * LAYER + OUTPUT + NORM
    assert planned.kv_bytes == 2048 * 57_344
    assert planned.margin_bytes == MARGIN


@pytest.mark.parametrize("gpu_layers", [-1, 29, 28, 14, 1, 0])
def test_card_and_host_share_weights_and_context_out_among_them(gpu_layers: int) -> None:
    on_card = plan(untied(), gpu_layers=gpu_layers)
    beside = plan_beside_gpu(untied(), shape(gpu_layers=gpu_layers))

    assert on_card.weights_bytes + beside.weights_bytes == EMBEDDING + 28 * LAYER + OUTPUT + NORM
    assert on_card.kv_bytes + beside.kv_bytes == 32768 * 57_344


@pytest.mark.parametrize(
    ("context_tokens", "kv_type", "kv_bytes"),
    [(4096, "f16", 4096 * 57_344), (4096, "q8_0", 4096 * 30_464), (4000, "f16", 4096 * 57_344)],
)
def test_context_is_counted_by_type_and_rounded_up(context_tokens: int, kv_type: str, kv_bytes: int) -> None:
    assert plan(untied(), context_tokens=context_tokens, kv_type=kv_type).kv_bytes == kv_bytes


LAYER_KV = 2 * 4 * 128 * 2
MASK, PLACES = 2 * 512, 3 * 8 * 512


def test_the_widest_place_is_the_feed_forward_part() -> None:
    feed_forward = 512 * (3 * 18944 + 4 * 3584) * 4
    for kv_type in ("f16", "q8_0"):
        planned = plan(untied(), context_tokens=4096, kv_type=kv_type)
        assert planned.compute_bytes == 4096 * MASK + PLACES + feed_forward


def test_a_long_quantised_context_is_converted_on_the_card_alone() -> None:
    attention = 512 * (2 * 3584 + 3 * 3584 + 2 * 512) * 4
    long = {"context_tokens": 65536, "kv_type": "q8_0"}

    assert plan(untied(), **long).compute_bytes == 65536 * (MASK + LAYER_KV) + PLACES + attention
    host = plan_host_memory(untied(), shape(**long), margin_bytes=0)
    assert host.compute_bytes < plan(untied(), **long).compute_bytes - 20 * MIB


def test_without_flash_attention_all_pairs_are_kept() -> None:
    planned = plan(untied(), context_tokens=8192, flash_attention="off")

    pairs = 28 * 8192 * 512 * 4
    assert pairs < planned.compute_bytes < 1.15 * pairs
    assert planned.scratch_bytes == pairs // 2


def test_heads_that_cuda_cannot_flash_are_planned_without() -> None:
    odd = header(attention__key_length=100, attention__value_length=100)

    assert plan(odd).compute_bytes == plan(odd, flash_attention="off").compute_bytes
    assert plan(odd, flash_attention="on").compute_bytes < plan(odd).compute_bytes / 4


def test_logits_count_only_where_they_are_wider_than_the_layers() -> None:
    assert plan(untied(), output_tokens=8) == plan(untied(), output_tokens=64)
    assert plan(untied(), output_tokens=512).compute_bytes == 512 * (152064 + 3 * 3584) * 4


def test_rows_of_logits_are_handed_out_in_host_memory() -> None:
    assert plan(untied()).output_bytes == 0
    assert plan_beside_gpu(untied(), shape()).output_bytes == 64 * 152064 * 4
    assert plan_beside_gpu(untied(), shape(output_tokens=1, sequences=20)).output_bytes == 20 * 152064 * 4


def test_a_batch_has_equally_many_tokens_of_each_sequence() -> None:
    assert plan(untied(), sequences=20).compute_bytes == plan(untied(), batch_tokens=520).compute_bytes


def test_a_step_is_no_longer_than_the_context() -> None:
    short = {"context_tokens": 512, "output_tokens": 512}
    assert plan(untied(), batch_tokens=2048, **short) == plan(untied(), batch_tokens=512, **short)


def test_weights_left_in_host_memory_are_copied_through_the_card() -> None:
    assert plan(untied(), gpu_layers=14).compute_bytes - plan(untied()).compute_bytes == LAYER


def test_a_card_without_layers_computes_nothing_but_the_output() -> None:
    logits = 64 * (152064 + 3 * 3584) * 4
    assert plan(untied(), gpu_layers=1).compute_bytes == logits + LAYER
    assert plan(untied(), gpu_layers=0).total_bytes == MARGIN


def test_an_encoder_has_neither_cache_nor_logits_but_rows_for_them() -> None:
    encoder = header(attention__causal=False)
    planned = plan_host_memory(encoder, shape(output_tokens=512, embeds=True), margin_bytes=0)

    assert planned.kv_bytes == 0
    assert planned.compute_bytes == 512 * MASK + PLACES + 512 * (3 * 18944 + 4 * 3584) * 4
    assert planned.output_bytes == 512 * (152064 + 3584) * 4


def test_a_decoder_that_embeds_computes_logits_nonetheless() -> None:
    planned = plan_host_memory(untied(), shape(output_tokens=512, embeds=True), margin_bytes=0)

    assert planned.compute_bytes == 512 * (152064 + 3 * 3584) * 4


def test_a_header_that_says_nothing_is_planned_by_its_tensors() -> None:
    bare = GgufHeader(Path("m.gguf"), 0, 3, {}, (TensorInfo("w", (1,), "F32", LAYER),), 0)
    planned = plan(bare)

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
