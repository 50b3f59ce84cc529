"""GGUFs with the exact shape of the two real models, for whoever must know what those will take.

Hyperparameters, tensors and their types are those of ``qwen2.5-coder:7b`` and ``qwen3:1.7b`` in Q4_K_M. The
vocabulary has the right number of tokens: made up, or real ones where somebody has them. The weights are
holes, which take no room on disk and read as zeros, or random blocks: what is in them changes neither memory
nor speed.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.gguf_writer import ALIGNMENT, STRING, Tensor, Typed, gguf_head, text
from server.engine.gguf.values import LazyArray

_CHUNK_BLOCKS = 4096
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_EVERY = 3
_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class RealShape:
    """What tells the two models apart. ``tied``: the embedding is the output too."""

    architecture: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    head_norms: bool
    biases: bool
    trained_tokens: int
    head_width: int = 128


CODER_7B = RealShape(
    "qwen2", 28, 3584, 18944, 28, 4, 152064, tied=False, head_norms=False, biases=True, trained_tokens=32768
)
QWEN3_1_7B = RealShape(
    "qwen3", 28, 2048, 6144, 16, 8, 151936, tied=True, head_norms=True, biases=False, trained_tokens=40960
)


def scaled_down(shape: RealShape) -> RealShape:
    """A model of the same build and vocabulary that any computer can run: about 70 MB, and far quicker."""
    return replace(shape, layers=4, width=256, feed_forward=768, heads=4, kv_heads=2, head_width=64)


def write_real_shape(
    path: Path, shape: RealShape, *, filled: bool = False, texts: Mapping[str, Any] | None = None
) -> Path:
    """Write a GGUF of ``shape`` and return its path: holes for weights, or random blocks if ``filled``.

    ``texts`` has the keys ``tokenizer.*`` of a real model of that family, read from its header; without, the
    vocabulary is made up.
    """
    tensors = tuple(_tensors(shape))
    head = gguf_head(
        _metadata(shape, _made_up(shape) if texts is None else _filled_up(texts, shape)), tensors
    )
    sizes = [-(-tensor.size_bytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
    with path.open("wb") as file:
        file.write(head)
        if filled:
            for tensor, size in zip(tensors, sizes, strict=True):
                start = file.tell()
                for piece in _random_blocks(tensor):
                    file.write(piece)
                file.seek(start + size)
    os.truncate(path, len(head) + sum(sizes))
    return path


def _tensors(shape: RealShape) -> Iterator[Tensor]:
    """In the order and the types that llama.cpp's quantiser writes for Q4_K_M."""
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    yield Tensor("token_embd.weight", (shape.width, shape.vocabulary), "Q6_K" if shape.tied else "Q4_K")
    for layer in range(shape.layers):
        block, better = f"blk.{layer}", "Q6_K" if _has_more_bits(layer, shape.layers) else "Q4_K"
        yield Tensor(f"{block}.attn_norm.weight", (shape.width,))
        yield Tensor(f"{block}.attn_q.weight", (shape.width, queries), "Q4_K")
        yield Tensor(f"{block}.attn_k.weight", (shape.width, keys), "Q4_K")
        yield Tensor(f"{block}.attn_v.weight", (shape.width, keys), better)
        if shape.biases:
            yield Tensor(f"{block}.attn_q.bias", (queries,))
            yield Tensor(f"{block}.attn_k.bias", (keys,))
            yield Tensor(f"{block}.attn_v.bias", (keys,))
        if shape.head_norms:
            yield Tensor(f"{block}.attn_q_norm.weight", (shape.head_width,))
            yield Tensor(f"{block}.attn_k_norm.weight", (shape.head_width,))
        yield Tensor(f"{block}.attn_output.weight", (queries, shape.width), "Q4_K")
        yield Tensor(f"{block}.ffn_norm.weight", (shape.width,))
        yield Tensor(f"{block}.ffn_gate.weight", (shape.width, shape.feed_forward), "Q4_K")
        yield Tensor(f"{block}.ffn_up.weight", (shape.width, shape.feed_forward), "Q4_K")
        yield Tensor(f"{block}.ffn_down.weight", (shape.feed_forward, shape.width), better)
    yield Tensor("output_norm.weight", (shape.width,))
    if not shape.tied:
        yield Tensor("output.weight", (shape.width, shape.vocabulary), "Q6_K")


def _has_more_bits(layer: int, layers: int) -> bool:
    """``use_more_bits`` of llama.cpp's quantiser: the first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % _EVERY == _EVERY - 1


def _metadata(shape: RealShape, vocabulary: Mapping[str, Any]) -> dict[str, Any]:
    own = {
        "block_count": shape.layers,
        "context_length": shape.trained_tokens,
        "embedding_length": shape.width,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    }
    return {
        "general.architecture": shape.architecture,
        "general.name": f"Shape of {shape.architecture}",
        "general.file_type": 15,
        **{f"{shape.architecture}.{key}": value for key, value in own.items()},
        **vocabulary,
    }


def _made_up(shape: RealShape) -> dict[str, Any]:
    tokens = [*(f"token{number}" for number in range(shape.vocabulary - len(_CONTROLS))), *_CONTROLS]
    kinds = [_NORMAL] * (shape.vocabulary - len(_CONTROLS)) + [_CONTROL] * len(_CONTROLS)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [Typed("i32", kind) for kind in kinds],
        "tokenizer.ggml.merges": ["t o"],
        "tokenizer.ggml.bos_token_id": shape.vocabulary - 3,
        "tokenizer.ggml.eos_token_id": shape.vocabulary - 1,
        "tokenizer.ggml.add_bos_token": False,
    }


def _filled_up(texts: Mapping[str, Any], shape: RealShape) -> dict[str, Any]:
    """The real vocabulary, with as many unused tokens as the model's matrices have rows more."""
    keys = {key: value for key, value in texts.items() if key.startswith("tokenizer.")}
    tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    more = range(len(tokens), shape.vocabulary)
    names = b"".join(text(f"[PAD{number}]") for number in more)
    return {
        **keys,
        "tokenizer.ggml.tokens": LazyArray(STRING, shape.vocabulary, tokens.raw + names),
        "tokenizer.ggml.token_type": LazyArray(
            kinds.element_type, shape.vocabulary, kinds.raw + len(more) * struct.pack("<i", _UNUSED)
        ),
    }


def _random_blocks(tensor: Tensor) -> Iterator[bytes]:
    """Small numbers throughout: a scale of random bits could be infinite."""
    random = np.random.default_rng(7)
    if tensor.type_name == "F32":
        yield random.normal(1.0, 0.1, tensor.shape).astype("<f4").tobytes()
        return
    size, scales = {"Q4_K": (144, (0, 2)), "Q6_K": (210, (208,))}[tensor.type_name]
    blocks = random.integers(0, 256, (_CHUNK_BLOCKS, size), np.uint8)
    for place in scales:
        blocks[:, place : place + 2] = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)
    chunk, left = blocks.tobytes(), tensor.size_bytes
    while left > 0:
        yield chunk[:left]
        left -= len(chunk)
