"""What a model will take of a device's memory, counted before anything is taken."""

import re
from collections import Counter
from dataclasses import dataclass

from server.engine.gguf.header import GgufHeader

_MIB = 2**20
_INPUT = -1
_LAYER = re.compile(r"blk\.([0-9]{1,9})\.")
_KV_CELL_STEP_TOKENS = 256
"""llama.cpp rounds the KV cache up to a multiple of this."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one device's memory, by what they are for."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    margin_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, the margin included."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.margin_bytes


def plan_memory(
    header: GgufHeader,
    *,
    context_tokens: int,
    kv_type: str,
    batch_tokens: int,
    gpu_layers: int,
    margin_bytes: int,
    output_tokens: int | None = None,
    flash_attention: bool = True,
) -> MemoryPlan:
    """The GPU's share of a model of which ``gpu_layers`` layers (-1: all) are put on the GPU.

    ``context_tokens`` is the whole KV cache, over all sequences. ``output_tokens`` is how many
    tokens of one batch may ask for logits; None: all of them. The CUDA context itself, some
    100 to 200 MiB, is not counted: ``margin_bytes`` must cover it.

    Weights: llama.cpp fills a GPU from the model's end: first the output, then the last layers.
    The input embedding stays in host memory, unless it is the output too.
    KV: bytes per token, times the context rounded up to 256 tokens, times the share of layers here.
    A model without attention heads in its header (a recurrent one) is planned without KV.
    Compute, on the safe side (llama.cpp reuses some of these buffers for each other):

        logits       output_tokens * vocabulary * 4
        activations  batch_tokens * (3 * feed-forward width + 6 * embedding width) * 4
        mask         context * batch_tokens * 6     (one copy in f32, one in f16)
        attention    heads * context * batch_tokens * 4     (only without flash attention)
        conversion   context * KV bytes of one layer in f16 (only for a quantised KV cache)
        streaming    the largest layer in host memory       (only if some layers stay there:
                     llama.cpp copies their weights over for long batches)

    Raises ValueError for an unknown ``kv_type``.
    """
    layers = header.block_count or 0
    parts_here = layers + 1 if gpu_layers < 0 else min(gpu_layers, layers + 1)
    first_here = layers + 1 - parts_here
    parts = _bytes_by_part(header)
    compute_bytes = _compute_bytes(
        header,
        context_tokens=context_tokens,
        kv_type=kv_type,
        batch_tokens=batch_tokens,
        output_tokens=output_tokens,
        flash_attention=flash_attention,
    )
    return MemoryPlan(
        weights_bytes=sum(size for part, size in parts.items() if part >= first_here),
        kv_bytes=_share(_kv_bytes(header, context_tokens, kv_type), max(parts_here - 1, 0), layers),
        compute_bytes=compute_bytes
        + max((size for part, size in parts.items() if _INPUT < part < first_here), default=0),
        margin_bytes=margin_bytes,
    )


def plan_host_memory(
    header: GgufHeader,
    *,
    context_tokens: int,
    kv_type: str,
    batch_tokens: int,
    margin_bytes: int,
    output_tokens: int | None = None,
    flash_attention: bool = True,
) -> MemoryPlan:
    """The host memory of a model that runs on the CPU alone. Parameters and formula as ``plan_memory``."""
    return MemoryPlan(
        weights_bytes=header.weights_bytes,
        kv_bytes=_kv_bytes(header, context_tokens, kv_type),
        compute_bytes=_compute_bytes(
            header,
            context_tokens=context_tokens,
            kv_type=kv_type,
            batch_tokens=batch_tokens,
            output_tokens=output_tokens,
            flash_attention=flash_attention,
        ),
        margin_bytes=margin_bytes,
    )


def refusal(plan: MemoryPlan, free_bytes: int | None, where: str, setting: str) -> str | None:
    """Why the plan cannot be carried out, with numbers and remedy; None if it fits or nobody knows.

    ``where`` is the device, like ``cuda:0`` or ``cpu``; ``setting`` the model's part of the
    settings, like ``generator``.
    """
    if free_bytes is None or plan.total_bytes <= free_bytes:
        return None
    lower = f"{setting}.context" if where == "cpu" else f"{setting}.context or {setting}.gpu_layers"
    return (
        f"needs {_mib_up(plan.total_bytes)} MiB on {where} (weights {_mib_up(plan.weights_bytes)}, "
        f"context {_mib_up(plan.kv_bytes)}, compute {_mib_up(plan.compute_bytes)}, "
        f"margin {_mib_up(plan.margin_bytes)}) but {free_bytes // _MIB} MiB are free; "
        f"lower {lower}, or choose a smaller GGUF"
    )


def _bytes_by_part(header: GgufHeader) -> Counter[int]:
    """Bytes of each layer, by its number; the output counts as one layer more, the input as -1."""
    output = header.block_count or 0
    tied = not any(tensor.name.startswith("output.") for tensor in header.tensors)
    parts: Counter[int] = Counter()
    for tensor in header.tensors:
        parts[_part(tensor.name, output, tied)] += tensor.size_bytes
    return parts


def _part(tensor_name: str, output: int, tied: bool) -> int:
    if tensor_name.startswith("token_embd.") and not tied:
        return _INPUT
    layer = _LAYER.match(tensor_name)
    return output if layer is None else int(layer[1])


def _kv_bytes(header: GgufHeader, context_tokens: int, kv_type: str) -> int:
    return _cells(context_tokens) * (header.kv_bytes_per_token(kv_type) or 0)


def _compute_bytes(
    header: GgufHeader,
    *,
    context_tokens: int,
    kv_type: str,
    batch_tokens: int,
    output_tokens: int | None,
    flash_attention: bool,
) -> int:
    outputs = batch_tokens if output_tokens is None else output_tokens
    cells = _cells(context_tokens)
    width = header.embedding_length or 0
    feed_forward = header.feed_forward_length or 4 * width
    logits = outputs * (header.vocabulary_size or 0) * 4
    activations = batch_tokens * (3 * feed_forward + 6 * width) * 4
    mask = cells * batch_tokens * 6
    attention = 0 if flash_attention else (header.head_count or 0) * cells * batch_tokens * 4
    conversion = 0 if kv_type == "f16" else cells * _layer_kv_bytes(header)
    return logits + activations + mask + attention + conversion


def _layer_kv_bytes(header: GgufHeader) -> int:
    return _share(header.kv_bytes_per_token("f16") or 0, 1, header.block_count or 0)


def _cells(context_tokens: int) -> int:
    return -(-context_tokens // _KV_CELL_STEP_TOKENS) * _KV_CELL_STEP_TOKENS


def _share(total: int, part: int, whole: int) -> int:
    return -(-total * part // whole) if whole else total


def _mib_up(size_bytes: int) -> int:
    return -(-size_bytes // _MIB)
