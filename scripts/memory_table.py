"""Write the table of models/README.md: how much memory the two models take at which context.

    python scripts/memory_table.py            writes it anew
    python scripts/memory_table.py --check    only says whether it is as the code counts (exit code 1: no)

The models' headers are built from their makers' figures, so that no download is needed. What they take is
counted by server/gpu/plan.py, as the service does before it loads a model.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from server.config import ModelSettings, Settings
from server.engine.gguf.header import GgufHeader, TensorInfo
from server.engine.gguf.tables import row_bytes
from server.engine.spec import logit_rows, sequences_of
from server.gpu import compute
from server.gpu.plan import MemoryPlan, plan_memory

README = Path(__file__).resolve().parent.parent / "models" / "README.md"
BEGIN, END = "<!-- scripts/memory_table.py -->\n", "<!-- /scripts/memory_table.py -->\n"
CONTEXTS = (4096, 8192, 16_384, 32_768)
KV_TYPES = ("f16", "q8_0")
CUDA_MIB = 200
"""What CUDA takes of a card for itself, at most, beside the plan."""
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What llama.cpp makes of a model's matrices: most of them, those that are worth more, and the output."""

    usual: str
    finer: str
    output: str


QUANTISATIONS = {
    "Q4_K_M": Quantisation("Q4_K", "Q6_K", "Q6_K"),
    "Q5_K_M": Quantisation("Q5_K", "Q6_K", "Q6_K"),
    "Q6_K": Quantisation("Q6_K", "Q6_K", "Q6_K"),
    "Q8_0": Quantisation("Q8_0", "Q8_0", "Q8_0"),
}
DEFAULT = "Q4_K_M"


@dataclass(frozen=True, slots=True)
class Shape:
    """A model by its maker's figures. ``tied``: the output is the input embedding."""

    title: str
    card: str
    card_mib: int
    architecture: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    has_biases: bool
    has_head_norms: bool

    def header(self, quantisation: str = DEFAULT) -> GgufHeader:
        """The header of its file, without the texts."""
        own = {
            "block_count": self.layers,
            "context_length": 32_768,
            "embedding_length": self.width,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_width,
            "attention.value_length": self.head_width,
            "vocab_size": self.vocabulary,
        }
        metadata: dict[str, Any] = {f"{self.architecture}.{key}": value for key, value in own.items()}
        metadata["general.architecture"] = self.architecture
        tensors = tuple(self._tensors(QUANTISATIONS[quantisation]))
        size_bytes = sum(tensor.size_bytes for tensor in tensors)
        return GgufHeader(Path(f"{self.title}.gguf"), size_bytes, 3, metadata, tensors, 0)

    def _tensors(self, types: Quantisation) -> Iterator[TensorInfo]:
        embedding = types.output if self.tied else types.usual
        yield _tensor("token_embd.weight", embedding, self.width, self.vocabulary)
        for layer in range(self.layers):
            yield from self._of_layer(layer, types)
        yield _tensor("output_norm.weight", "F32", self.width)
        if not self.tied:
            yield _tensor("output.weight", types.output, self.width, self.vocabulary)

    def _of_layer(self, layer: int, types: Quantisation) -> Iterator[TensorInfo]:
        block, usual = f"blk.{layer}", types.usual
        finer = types.finer if self._is_finer(layer) else usual
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        for part, rows, type_name in (("q", queries, usual), ("k", keys, usual), ("v", keys, finer)):
            yield _tensor(f"{block}.attn_{part}.weight", type_name, self.width, rows)
            if self.has_biases:
                yield _tensor(f"{block}.attn_{part}.bias", "F32", rows)
        yield _tensor(f"{block}.attn_output.weight", usual, queries, self.width)
        yield _tensor(f"{block}.ffn_gate.weight", usual, self.width, self.feed_forward)
        yield _tensor(f"{block}.ffn_up.weight", usual, self.width, self.feed_forward)
        yield _tensor(f"{block}.ffn_down.weight", finer, self.feed_forward, self.width)
        yield _tensor(f"{block}.attn_norm.weight", "F32", self.width)
        yield _tensor(f"{block}.ffn_norm.weight", "F32", self.width)
        if self.has_head_norms:
            yield _tensor(f"{block}.attn_q_norm.weight", "F32", self.head_width)
            yield _tensor(f"{block}.attn_k_norm.weight", "F32", self.head_width)

    def _is_finer(self, layer: int) -> bool:
        """Where llama.cpp's mixed types take it: in the first and last eighth, and in every third between."""
        eighth = self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2  # noqa: PLR2004


GENERATOR = Shape(
    title="Qwen2.5-Coder-7B-Instruct",
    card="8 GB",
    card_mib=8192,
    architecture="qwen2",
    layers=28,
    width=3584,
    feed_forward=18_944,
    heads=28,
    kv_heads=4,
    head_width=128,
    vocabulary=152_064,
    tied=False,
    has_biases=True,
    has_head_norms=False,
)
HELPER = Shape(
    title="Qwen3-1.7B",
    card="2 GB",
    card_mib=2048,
    architecture="qwen3",
    layers=28,
    width=2048,
    feed_forward=6144,
    heads=16,
    kv_heads=8,
    head_width=128,
    vocabulary=151_936,
    tied=True,
    has_biases=False,
    has_head_norms=True,
)


@dataclass(frozen=True, slots=True)
class Case:
    """A model in a quantisation with a context; all else is as in its settings."""

    shape: Shape
    settings: ModelSettings
    context_tokens: int
    kv_type: str
    quantisation: str = DEFAULT

    @property
    def is_default(self) -> bool:
        """Whether it is what the service does without a word."""
        own = (self.settings.context, self.settings.kv_type, DEFAULT)
        return (self.context_tokens, self.kv_type, self.quantisation) == own

    def plan(self) -> MemoryPlan:
        """What the service would count before it loads it."""
        shape = compute.Shape(
            context_tokens=self.context_tokens,
            batch_tokens=self.settings.batch,
            output_tokens=logit_rows(self.settings.slots, self.settings.draft),
            sequences=sequences_of(self.settings.slots),
            kv_type=self.kv_type,
        )
        margin_bytes = self.settings.memory_margin_mib * MIB
        return plan_memory(self.shape.header(self.quantisation), shape, margin_bytes=margin_bytes)


def cases(settings: Settings) -> tuple[Case, ...]:
    """The lines of the table: both models at every context, then the helper in other quantisations."""
    models = ((GENERATOR, settings.generator), (HELPER, settings.helper))
    contexts = tuple(
        Case(shape, own, context_tokens, kv_type)
        for shape, own in models
        for kv_type in KV_TYPES
        for context_tokens in CONTEXTS
    )
    helper = settings.helper
    others = tuple(
        Case(HELPER, helper, helper.context, helper.kv_type, quantisation)
        for quantisation in QUANTISATIONS
        if quantisation != DEFAULT
    )
    return (*contexts, *others)


def verdict(total_mib: int, card_mib: int) -> str:
    """Whether that fits a card of the size, with what CUDA takes for itself."""
    if total_mib > card_mib:
        return "**no**"
    return "yes" if total_mib + CUDA_MIB <= card_mib else "**hardly**"


def table() -> str:
    """All of it, as Markdown."""
    head = ("model", "context", "KV", "weights", "KV cache", "compute", "margin", "total", "fits")
    lines = (head, ("---",) * len(head), *map(_row, cases(Settings())))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def renewed(readme: str) -> str:
    """The page with the table as it is counted now."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN.strip()} or {END.strip()}")
    return f"{before}{begin}{table()}{end}{after}"


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if it is outdated")
    options = parser.parse_args()
    page = README.read_text(encoding="utf-8")
    new = renewed(page)
    if options.check:
        return 0 if new == page else 1
    README.write_text(new, encoding="utf-8")
    return 0


def _tensor(name: str, type_name: str, *shape: int) -> TensorInfo:
    size_bytes = row_bytes(type_name.lower(), shape[0]) * prod(shape[1:])
    return TensorInfo(name, shape, type_name, size_bytes)


def _row(case: Case) -> tuple[str, ...]:
    planned, shape = case.plan(), case.shape
    parts = (planned.weights_bytes, planned.kv_bytes, planned.computing_bytes, planned.margin_bytes)
    total_mib = _mib(planned.total_bytes)
    mark = " (default)" if case.is_default else ""
    return (
        f"{shape.title}, {case.quantisation}",
        f"{case.context_tokens:,}{mark}",
        case.kv_type,
        *(f"{_mib(size):,}" for size in parts),
        f"{total_mib:,}",
        f"{shape.card}: {verdict(total_mib, shape.card_mib)}",
    )


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)


if __name__ == "__main__":
    sys.exit(main())
