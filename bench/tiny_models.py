"""Small but whole models with random weights, for architectures that no package registry carries.

They babble, in lower-case letters and spaces alone, so that an answer's text splits into the very
tokens it was made of. They read any text, never end by themselves, and what they say depends on
every part of what they have read. Each is written at once, is below 1 MB, and is always the same.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bench.gguf_writer import Tensor, Typed, write_gguf

TRAINED_CONTEXT_TOKENS = 2048
SLIDING_WINDOW_TOKENS = 64

POOLING = MappingProxyType({"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4})

LAYERS = 4
WIDTH = 64
HEADS = 4
KV_HEADS = 2
HEAD_WIDTH = WIDTH // HEADS
FEED_FORWARD_WIDTH = 128
STATE_WIDTH = 16
TIME_STEP_RANK = 4
CONVOLUTION_WIDTH = 4

SPOKEN = " abcdefghijklmnopqrstuvwxyz"
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NORMAL, CONTROL = 1, 3


def write_llama(path: Path, **vocabulary: Any) -> Path:
    """Plain attention; ``vocabulary`` has more facts about the tokens."""
    weights = _Weights()
    for layer in range(LAYERS):
        weights.attention(layer)
        weights.feed_forward(layer)
    return _write(path, "llama", _transformer(), weights, vocabulary)


def write_gemma3(path: Path) -> Path:
    """Attention within a window of 64 tokens in three layers of four, over everything in the last."""
    weights = _Weights(embedding_gain=1.0)  # gemma3 multiplies its embeddings by the square root of the width
    for layer in range(LAYERS):
        weights.attention(layer)
        weights.head_norms(layer)
        weights.feed_forward(layer)
        weights.norm(f"blk.{layer}.post_attention_norm.weight", WIDTH)
        weights.norm(f"blk.{layer}.post_ffw_norm.weight", WIDTH)
    window = {
        "attention.sliding_window": SLIDING_WINDOW_TOKENS,
        "attention.sliding_window_pattern": LAYERS,
    }
    return _write(path, "gemma3", _transformer() | window, weights)


def write_mamba(path: Path) -> Path:
    """A state of fixed size in place of attention."""
    weights = _Weights()
    for layer in range(LAYERS):
        weights.state_space(layer)
    inner = {
        "ssm.conv_kernel": CONVOLUTION_WIDTH,
        "ssm.inner_size": 2 * WIDTH,
        "ssm.state_size": STATE_WIDTH,
        "ssm.time_step_rank": TIME_STEP_RANK,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    return _write(path, "mamba", inner, weights)


def write_lfm2(path: Path, pooling: str = "none") -> Path:
    """A hybrid: convolutions with a state in every other layer, attention in the rest."""
    weights = _Weights(output_norm="token_embd_norm.weight")
    recurrent = [layer % 2 == 0 for layer in range(LAYERS)]
    for layer in range(LAYERS):
        if recurrent[layer]:
            weights.short_convolution(layer)
        else:
            weights.attention(layer)
            weights.head_norms(layer)
        weights.feed_forward(layer)
    hybrid = {
        "attention.head_count_kv": [0 if state else KV_HEADS for state in recurrent],
        "shortconv.l_cache": CONVOLUTION_WIDTH,
        "pooling_type": POOLING[pooling],
    }
    return _write(path, "lfm2", _transformer() | hybrid, weights)


def write_bert(path: Path, pooling: str = "mean", context_tokens: int = 256) -> Path:
    """An encoder, where every token sees every other; its texts have ``context_tokens`` at most."""
    weights = _Weights(output_norm=None)
    weights.matrix("position_embd.weight", WIDTH, context_tokens, gain=WIDTH**0.5)
    weights.matrix("token_types.weight", WIDTH, 2)
    weights.norm("token_embd_norm.weight", WIDTH, bias=True)
    for layer in range(LAYERS):
        weights.attention(layer, kv_heads=HEADS, norm_before=False)
        weights.norm(f"blk.{layer}.attn_output_norm.weight", WIDTH, bias=True)
        weights.matrix(f"blk.{layer}.ffn_up.weight", WIDTH, FEED_FORWARD_WIDTH)
        weights.matrix(f"blk.{layer}.ffn_down.weight", FEED_FORWARD_WIDTH, WIDTH)
        weights.norm(f"blk.{layer}.layer_output_norm.weight", WIDTH, bias=True)
    encoder = {
        "attention.head_count": HEADS,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": False,
        "feed_forward_length": FEED_FORWARD_WIDTH,
        "pooling_type": POOLING[pooling],
        "context_length": context_tokens,
    }
    return _write(path, "bert", encoder, weights)


def write_qwen3(path: Path, pooling: str = "last") -> Path:
    """A decoder that is read for its embeddings."""
    weights = _Weights()
    for layer in range(LAYERS):
        weights.attention(layer)
        weights.head_norms(layer)
        weights.feed_forward(layer)
    return _write(path, "qwen3", _transformer() | {"pooling_type": POOLING[pooling]}, weights)


GENERATING: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {"llama": write_llama, "gemma3": write_gemma3, "mamba": write_mamba, "lfm2": write_lfm2}
)
"""Models that answer, by architecture."""


class _Weights:
    """Tensors drawn from one seed, in the names that llama.cpp looks for."""

    def __init__(
        self, output_norm: str | None = "output_norm.weight", embedding_gain: float = WIDTH**0.5
    ) -> None:
        self.tensors: list[Tensor] = []
        self._random = np.random.default_rng(5)
        self.matrix("token_embd.weight", WIDTH, len(_tokens()), gain=embedding_gain)
        if output_norm is not None:
            self.norm(output_norm, WIDTH)
            self._output()

    def matrix(self, name: str, inputs: int, outputs: int, gain: float = 1.0) -> None:
        """Keeps the size of what goes through it, times ``gain``."""
        self._add(name, self._random.normal(0.0, gain / inputs**0.5, (outputs, inputs)))

    def norm(self, name: str, width: int, *, gain: float = 1.0, bias: bool = False) -> None:
        self._add(name, np.full(width, gain))
        if bias:
            self._add(name.replace(".weight", ".bias"), self._random.normal(0.0, 0.1, width))

    def attention(self, layer: int, *, kv_heads: int = KV_HEADS, norm_before: bool = True) -> None:
        # Pointed queries make a few tokens count for much, wherever in the prompt they are.
        block = f"blk.{layer}"
        if norm_before:
            self.norm(f"{block}.attn_norm.weight", WIDTH)
        self.matrix(f"{block}.attn_q.weight", WIDTH, WIDTH, gain=2.0)
        self.matrix(f"{block}.attn_k.weight", WIDTH, kv_heads * HEAD_WIDTH, gain=2.0)
        self.matrix(f"{block}.attn_v.weight", WIDTH, kv_heads * HEAD_WIDTH)
        self.matrix(f"{block}.attn_output.weight", WIDTH, WIDTH)

    def head_norms(self, layer: int) -> None:
        self.norm(f"blk.{layer}.attn_q_norm.weight", HEAD_WIDTH, gain=2.0)
        self.norm(f"blk.{layer}.attn_k_norm.weight", HEAD_WIDTH, gain=2.0)

    def feed_forward(self, layer: int) -> None:
        block = f"blk.{layer}"
        self.norm(f"{block}.ffn_norm.weight", WIDTH)
        self.matrix(f"{block}.ffn_gate.weight", WIDTH, FEED_FORWARD_WIDTH)
        self.matrix(f"{block}.ffn_up.weight", WIDTH, FEED_FORWARD_WIDTH)
        self.matrix(f"{block}.ffn_down.weight", FEED_FORWARD_WIDTH, WIDTH)

    def short_convolution(self, layer: int) -> None:
        block = f"blk.{layer}"
        self.norm(f"{block}.attn_norm.weight", WIDTH)
        self.matrix(f"{block}.shortconv.conv.weight", CONVOLUTION_WIDTH, WIDTH)
        self.matrix(f"{block}.shortconv.in_proj.weight", WIDTH, 3 * WIDTH)
        self.matrix(f"{block}.shortconv.out_proj.weight", WIDTH, WIDTH)

    def state_space(self, layer: int) -> None:
        # Slow decay and short time steps make the state remember hundreds of tokens.
        block, inner = f"blk.{layer}", 2 * WIDTH
        self.norm(f"{block}.attn_norm.weight", WIDTH)
        self.matrix(f"{block}.ssm_in.weight", WIDTH, 2 * inner, gain=2.0)
        self.matrix(f"{block}.ssm_conv1d.weight", CONVOLUTION_WIDTH, inner)
        self._add(f"{block}.ssm_conv1d.bias", np.zeros(inner))
        self.matrix(f"{block}.ssm_x.weight", inner, TIME_STEP_RANK + 2 * STATE_WIDTH, gain=2.0)
        self.matrix(f"{block}.ssm_dt.weight", TIME_STEP_RANK, inner)
        self._add(f"{block}.ssm_dt.bias", np.full(inner, -2.0))
        self._add(f"{block}.ssm_a", -self._random.uniform(0.01, 1.0, (inner, STATE_WIDTH)))
        self._add(f"{block}.ssm_d", np.ones(inner))
        self.matrix(f"{block}.ssm_out.weight", inner, WIDTH)

    def _output(self) -> None:
        # What is never said has rows of zeros, which are far below the best of the others.
        rows = np.zeros((len(_tokens()), WIDTH))
        spoken = [_tokens().index(_letters_of_bytes()[byte]) for byte in SPOKEN.encode()]
        rows[spoken] = self._random.normal(0.0, 8.0 / WIDTH**0.5, (len(spoken), WIDTH))
        self._add("output.weight", rows)

    def _add(self, name: str, values: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        self.tensors.append(Tensor(name, values.shape[::-1], values=values.astype(np.float32)))


def _write(
    path: Path,
    architecture: str,
    facts: Mapping[str, Any],
    weights: _Weights,
    vocabulary: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    common = {
        "context_length": TRAINED_CONTEXT_TOKENS,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
    }
    own = {f"{architecture}.{key}": value for key, value in (common | dict(facts)).items()}
    general = {"general.architecture": architecture, "general.name": f"Tiny {architecture}"}
    tokens = _vocabulary() | {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}
    return write_gguf(path, general | own | tokens, weights.tensors)


def _transformer() -> dict[str, Any]:
    return {
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "feed_forward_length": FEED_FORWARD_WIDTH,
    }


def _vocabulary() -> dict[str, Any]:
    """One token for each byte, one for ``TH``, and the control tokens at the end."""
    tokens = _tokens()
    kinds = [NORMAL] * (len(tokens) - len(CONTROL_TOKENS)) + [CONTROL] * len(CONTROL_TOKENS)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [Typed("i32", kind) for kind in kinds],
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.merges": ["T H"],
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
    }


def _tokens() -> list[str]:
    return [*_letters_of_bytes(), "TH", *CONTROL_TOKENS]


def _letters_of_bytes() -> list[str]:
    """GPT-2's letters for the bytes 0 to 255: themselves if they are visible, others from 256 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(substitutes)) for byte in range(256)]
