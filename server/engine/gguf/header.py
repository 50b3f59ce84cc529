"""What the header of a GGUF says, and what follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from server.engine.gguf.tables import file_type_name, row_bytes
from server.engine.gguf.values import LazyArray, whole_number

KV_TYPES = ("f16", "q8_0", "q4_0")
"""The types that a KV cache may have."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header lists it. ``shape`` has the fastest running dimension first."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF says about its model.

    ``metadata`` holds every key as it is written; arrays are tuples, those of more than 512
    elements ``LazyArray``. Of a key that occurs twice the first counts. Where the file does not
    say something, or says it in a wrong type, the property is None.
    """

    path: Path
    size_bytes: int
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int

    @property
    def architecture(self) -> str | None:
        """llama.cpp's name of the architecture, like ``qwen2``."""
        return self._text("general.architecture")

    @property
    def name(self) -> str | None:
        """The model's own name."""
        return self._text("general.name")

    @property
    def license(self) -> str | None:
        """Name or text of the licence."""
        return self._text("general.license")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the chat template."""
        return self._text("tokenizer.chat_template")

    @property
    def file_type_name(self) -> str:
        """The quantisation of most weights, like ``Q4_K_M``; ``unknown`` if the file does not say."""
        return file_type_name(whole_number(self.metadata.get("general.file_type")))

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def context_length(self) -> int | None:
        """Tokens of context that the model was trained for."""
        return self._number("context_length")

    @property
    def embedding_length(self) -> int | None:
        """Width of a layer."""
        return self._number("embedding_length")

    @property
    def feed_forward_length(self) -> int | None:
        """Width of the widest layer's feed-forward part."""
        return _widest(self._count("feed_forward_length"))

    @property
    def block_count(self) -> int | None:
        """Number of layers."""
        return self._number("block_count")

    @property
    def head_count(self) -> int | None:
        """Attention heads of the layer that has most."""
        return _widest(self._count("attention.head_count"))

    @property
    def head_count_kv(self) -> int | tuple[int, ...] | None:
        """KV heads of a layer: one number for all layers, or one for each."""
        own = self._count("attention.head_count_kv")
        return self._count("attention.head_count") if own is None else own

    @property
    def key_length(self) -> int | None:
        """Width of one head's key."""
        return self._number("attention.key_length") or self._head_length()

    @property
    def value_length(self) -> int | None:
        """Width of one head's value."""
        return self._number("attention.value_length") or self._head_length()

    @property
    def vocabulary_size(self) -> int | None:
        """Number of tokens, which is the width of the logits."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, tuple | LazyArray):
            return len(tokens)
        return self._number("vocab_size")

    @property
    def pooling_type(self) -> int | None:
        """How an embedding model pools its tokens, in llama.cpp's numbers; None for other models."""
        return self._number("pooling_type")

    def kv_bytes_per_token(self, kv_type: str) -> int | None:
        """Bytes that a token takes in the KV cache of all layers; None where the header lacks a fact.

        ``kv_type`` is one of ``KV_TYPES``; anything else is a ValueError.
        """
        if kv_type not in KV_TYPES:
            raise ValueError(f"KV type '{kv_type}' is not one of {', '.join(KV_TYPES)}")
        heads, layers, key, value = self.head_count_kv, self.block_count, self.key_length, self.value_length
        if heads is None or layers is None or key is None or value is None:
            return None

        def layer_bytes(head_count: int) -> int:
            return row_bytes(kv_type, head_count * key) + row_bytes(kv_type, head_count * value)

        if isinstance(heads, int):
            return layers * layer_bytes(heads)
        return sum(layer_bytes(head_count) for head_count in heads[:layers])

    @property
    def state_bytes(self) -> int:
        """Bytes of a sequence in the layers that keep a state in place of a KV cache; 0 without any."""
        inner, state = self._number("ssm.inner_size") or 0, self._number("ssm.state_size") or 0
        groups, kernel = self._number("ssm.group_count") or 0, self._number("ssm.conv_kernel") or 1
        short = (self._number("shortconv.l_cache") or 1) - 1
        convolved = (kernel - 1) * (inner + 2 * groups * state) + short * (self.embedding_length or 0)
        heads, layers = self.head_count_kv, self.block_count or 0
        recurrent = heads[:layers].count(0) if isinstance(heads, tuple) else layers
        return 4 * recurrent * (convolved + inner * state)

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _number(self, key: str) -> int | None:
        return whole_number(self.metadata.get(f"{self.architecture}.{key}"))

    def _count(self, key: str) -> int | tuple[int, ...] | None:
        value = self.metadata.get(f"{self.architecture}.{key}")
        if not isinstance(value, tuple | LazyArray):
            return whole_number(value)
        elements = value.decode() if isinstance(value, LazyArray) else value
        numbers = tuple(number for number in map(whole_number, elements) if number is not None)
        return numbers if len(numbers) == len(elements) else None

    def _head_length(self) -> int | None:
        width, heads = self.embedding_length, self.head_count
        return width // heads if width is not None and heads else None


def _widest(count: int | tuple[int, ...] | None) -> int | None:
    return max(count, default=None) if isinstance(count, tuple) else count
