"""How large llama.cpp's compute buffers become: the formulas, and what they were held against.

llama.cpp reserves them for its largest step: a whole batch, with the KV cache full and as many rows of logits
as may be asked for. ggml lays the results of the graph's nodes over each other, so a buffer is as large as
the widest place of the graph, not as the sum of all. ``docs/tuning.md`` has the figures that the formulas
were compared with: llama.cpp's own, for hundreds of shapes.
"""

from dataclasses import dataclass

from server.engine.embeddings import is_causal
from server.engine.gguf.header import GgufHeader

_F16, _F32, _I64 = 2, 4, 8
_KV_CELL_STEP_TOKENS = 256
"""llama.cpp rounds the KV cache up to a multiple of this."""

_FLASH_HEAD_WIDTHS = frozenset({40, 64, 72, 80, 96, 112, 128, 256, 512})
"""Those for which ggml has flash attention on CUDA."""

_QUANTISED_ACTIVATION = (9, 8)
"""Bytes of a value in ggml's q8_1 and q8_K, into which activations are turned for quantised weights."""

_FLASH_PARTS = 4
"""ggml's flash attention without tensor cores computes an output in up to so many parts, and adds them up."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model is loaded with, as far as memory depends on it.

    ``context_tokens`` is the whole KV cache, over all ``sequences``, kept as ``kv_type``. Of the
    ``batch_tokens`` of a step ``output_tokens`` may ask for logits. ``flash_attention`` is ``on``, ``off`` or
    ``auto``. ``gpu_layers`` -1 is all of them, the output counting as one. ``embeds``: the model is read for
    vectors in place of logits.
    """

    context_tokens: int
    batch_tokens: int
    output_tokens: int
    sequences: int = 1
    kv_type: str = "f16"
    flash_attention: str = "auto"
    gpu_layers: int = -1
    embeds: bool = False


class Step:
    """Bytes of the largest step of a model that is loaded with ``shape``."""

    def __init__(self, header: GgufHeader, shape: Shape) -> None:
        self._header = header
        self._shape = shape
        self._width = header.embedding_length or 0
        self._feed_forward = header.feed_forward_length or 4 * self._width
        self._heads = header.head_count or 0
        self._head_width = header.key_length or 0
        batch_tokens = min(cells(shape.context_tokens), shape.batch_tokens)
        self._rows = min(batch_tokens, shape.output_tokens)
        # The reserved step has equally many tokens of each sequence.
        self._tokens = -(-batch_tokens // shape.sequences) * shape.sequences

    def layers(self, *, on_gpu: bool) -> int:
        """The widest place within a layer, with what comes in from outside of the graph.

        feed-forward         tokens * (3 * feed-forward width + 4 * embedding width) * 4
        attention            tokens * (2 * embedding + 3 * query + 2 * KV width) * 4
          without flash      + heads * cells * tokens * 4
        CUDA, quantised KV   + cells * KV bytes of one layer in f16: flash attention converts them

        """
        flash = uses_flash_attention(self._header, self._shape.flash_attention, on_gpu=on_gpu)
        per_token = 3 * self._feed_forward + 4 * self._width
        attention = self._tokens * self._attention_width() * _F32
        if not flash:
            attention += self._heads * self._seen_cells() * self._tokens * _F32
        elif on_gpu and self._shape.kv_type != "f16":
            attention += self._seen_cells() * layer_kv_bytes(self._header)
        return self.inputs(flash=flash) + max(self._tokens * per_token * _F32, attention)

    def logits(self) -> int:
        """The graph's end, where all else is over: rows * (vocabulary + 3 * embedding width) * 4."""
        if self._shape.embeds and not is_causal(self._header):
            return 0
        return self._rows * ((self._header.vocabulary_size or 0) + 3 * self._width) * _F32

    def inputs(self, *, flash: bool) -> int:
        """The mask, cells * tokens * 2 (4 without flash attention), and where the new KV goes."""
        masks = 2 if self._is_windowed() else 1
        mask = masks * self._seen_cells() * self._tokens * (_F16 if flash else _F32)
        places = 3 if flash else 2 + self._kv_width()
        return mask + self._tokens * places * _I64

    def beside_a_gpu(self) -> int:
        """What a host keeps whose GPU has all the layers: the inputs, and the embedded tokens."""
        flash = uses_flash_attention(self._header, self._shape.flash_attention, on_gpu=True)
        return self.inputs(flash=flash) + 2 * self._tokens * self._width * _F32

    def outputs(self) -> int:
        """The rows that are handed out, which lie in host memory: max(outputs, sequences) * vocabulary * 4.

        llama.cpp has them even for models whose vectors are asked for, and then those too.
        """
        rows = max(self._rows, self._shape.sequences)
        vectors = self._width if self._shape.embeds else 0
        return rows * ((self._header.vocabulary_size or 0) + vectors) * _F32

    def scratch(self, *, on_gpu: bool) -> int:
        """What the backend takes for a single operation, which no log line counts.

        activations          tokens * widest width, turned into 8 bits
        without flash        + heads * cells * tokens * 2: the softmax in f16
        CUDA, flash          + 4 * tokens * query width * 4: parts of the output

        """
        bytes_, values = _QUANTISED_ACTIVATION
        widest = max(self._feed_forward, self._width, self._query_width())
        activations = self._tokens * widest * bytes_ // values
        if not uses_flash_attention(self._header, self._shape.flash_attention, on_gpu=on_gpu):
            return max(activations, self._heads * self._seen_cells() * self._tokens * _F16)
        return max(activations, _FLASH_PARTS * self._tokens * self._query_width() * _F32 if on_gpu else 0)

    def _seen_cells(self) -> int:
        """An encoder has no cache: its tokens see those of their batch."""
        return cells(self._shape.context_tokens) if is_causal(self._header) else self._tokens

    def _attention_width(self) -> int:
        return 2 * self._width + 3 * self._query_width() + 2 * self._kv_width()

    def _query_width(self) -> int:
        return self._heads * self._head_width

    def _kv_width(self) -> int:
        heads = self._header.head_count_kv
        most = max(heads, default=0) if isinstance(heads, tuple) else heads or 0
        return most * self._head_width

    def _is_windowed(self) -> bool:
        return bool(self._header.metadata.get(f"{self._header.architecture}.attention.sliding_window"))


def uses_flash_attention(header: GgufHeader, wanted: str, *, on_gpu: bool) -> bool:
    """What llama.cpp makes of ``on``, ``off`` or ``auto``."""
    if wanted != "auto" or not on_gpu:
        return wanted != "off"
    return header.key_length in _FLASH_HEAD_WIDTHS


def cells(context_tokens: int) -> int:
    """Cells of the KV cache for so many tokens."""
    return -(-context_tokens // _KV_CELL_STEP_TOKENS) * _KV_CELL_STEP_TOKENS


def layer_kv_bytes(header: GgufHeader) -> int:
    """What a token takes of one layer's KV cache in f16."""
    layers = header.block_count or 0
    return -(-(header.kv_bytes_per_token("f16") or 0) // layers) if layers else 0
