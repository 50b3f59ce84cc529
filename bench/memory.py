"""Holds the memory plan against what llama.cpp would allocate, in dry loads.

    python -m bench.memory [GGUF]... [--device cuda:0] [--all]

Nothing of a model is read but its header and vocabulary, and nothing is allocated. With --device the plans
for that card and for the host memory beside it are compared together.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import plan_is_near
from bench.servers import PROJECT
from server.domain.errors import ModelLoadFailed
from server.engine.gguf.header import GgufHeader
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.context import ContextShape
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.rehearsal import Allocation, Rehearsal
from server.gpu.compute import Shape
from server.gpu.plan import plan_beside_gpu, plan_host_memory, plan_memory

EMBEDDED = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"

CONTEXTS = (2048, 4096, 8192, 32_768)
BATCHES = (128, 512, 2048)
ROWS = ((20, 20), (20, 71), (12, 67), (12, 12))
"""Sequences and rows of logits: 8 slots without and with a draft of 63 tokens, 4 slots with and without."""
ATTENTIONS = (("f16", "auto"), ("f16", "off"), ("q8_0", "on"), ("q4_0", "auto"))

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Comparison:
    """A plan beside llama.cpp's words, in bytes; without margin and without what no log line counts."""

    shape: Shape
    planned_kv: int
    real_kv: int
    planned_compute: int
    real_compute: int
    planned_total: int
    real_total: int

    @property
    def off_bytes(self) -> int:
        """How much more was planned."""
        return self.planned_total - self.real_total

    @property
    def within(self) -> bool:
        """Whether it is as near as it has to be."""
        return plan_is_near(self.planned_total, self.real_total)


def shapes(trained_tokens: int, gpu_layers: int = -1) -> Iterator[Shape]:
    """The shapes that a model is compared in."""
    for context, batch, rows, (kv_type, attention) in itertools.product(CONTEXTS, BATCHES, ROWS, ATTENTIONS):
        if context <= trained_tokens:
            sequences, outputs = rows
            yield Shape(context, batch, outputs, sequences, kv_type, attention, gpu_layers)


def compare(
    library: Library, path: Path, wanted: Sequence[Shape], device: str = "CPU"
) -> Iterator[Comparison]:
    """Each of the shapes, which have their layers in the same places, planned and rehearsed.

    Raises:
        ModelLoadFailed: llama.cpp cannot load the model.
    """
    header = read_header(path)
    with Rehearsal(library, path, device, wanted[0].gpu_layers) as rehearsal:
        for shape in wanted:
            real = rehearsal.allocation(native_shape(shape, on_gpu=device != "CPU"))
            yield _on_host(header, shape, real) if device == "CPU" else _on_gpu(header, shape, real)


def native_shape(shape: Shape, *, on_gpu: bool) -> ContextShape:
    """What llama.cpp is asked for."""
    return ContextShape(
        context_tokens=shape.context_tokens,
        batch_tokens=shape.batch_tokens,
        sequences=shape.sequences,
        outputs=shape.output_tokens,
        sequence_outputs=shape.output_tokens,
        threads=1,
        kv_type=shape.kv_type,
        flash_attention=shape.flash_attention,
        on_gpu=on_gpu and shape.gpu_layers != 0,
        embeds=shape.embeds,
    )


def _on_host(header: GgufHeader, shape: Shape, real: Allocation) -> Comparison:
    plan = plan_host_memory(header, shape, margin_bytes=0)
    return Comparison(
        shape,
        plan.kv_bytes,
        real.memory_bytes,
        plan.compute_bytes,
        real.host_compute_bytes,
        plan.weights_bytes + plan.kv_bytes + plan.compute_bytes,
        real.weights_bytes + real.memory_bytes + real.host_compute_bytes,
    )


def _on_gpu(header: GgufHeader, shape: Shape, real: Allocation) -> Comparison:
    """llama.cpp does not say where weights and cache of a dry load lie: the plans of both sides count."""
    plan, beside = plan_memory(header, shape, margin_bytes=0), plan_beside_gpu(header, shape)
    planned_kv = plan.kv_bytes + beside.kv_bytes
    planned_compute = plan.compute_bytes + beside.compute_bytes
    real_compute = real.device_compute_bytes + real.host_compute_bytes
    return Comparison(
        shape,
        planned_kv,
        real.memory_bytes,
        planned_compute,
        real_compute,
        plan.weights_bytes + beside.weights_bytes + planned_kv + planned_compute,
        real.weights_bytes + real.memory_bytes + real_compute,
    )


def table(comparisons: Sequence[Comparison]) -> str:
    """Markdown, a line for each shape."""
    lines = [
        "| context | batch | rows | KV | flash | KV, MiB | compute, MiB | planned | off, MiB | off |",
        "|---:|---:|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in comparisons:
        shape = row.shape
        lines.append(
            f"| {shape.context_tokens} | {shape.batch_tokens} | {shape.output_tokens} | {shape.kv_type} "
            f"| {shape.flash_attention} | {_mib(row.real_kv)} | {_mib(row.real_compute)} "
            f"| {_mib(row.planned_compute)} | {row.off_bytes / _MIB:+.1f} "
            f"| {row.off_bytes / row.real_total:+.1%}{'' if row.within else ' !'} |"
        )
    return "\n".join(lines)


def summary(name: str, comparisons: Sequence[Comparison]) -> str:
    """A line for all shapes of a model."""
    least = min(comparisons, key=lambda row: row.off_bytes)
    most = max(comparisons, key=lambda row: row.off_bytes)
    within = sum(row.within for row in comparisons)
    worst = max(abs(row.off_bytes / row.real_total) for row in comparisons)
    return (
        f"| {name} | {len(comparisons)} | {within} | {least.off_bytes / _MIB:+.1f} "
        f"| {most.off_bytes / _MIB:+.1f} | {worst:.1%} |"
    )


SUMMARY_HEAD = (
    "| model | shapes | within | least, MiB | most, MiB | worst part |\n|---|---:|---:|---:|---:|---:|"
)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m bench.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "models", type=Path, nargs="*", metavar="GGUF", help="default: the embedded model", default=[EMBEDDED]
    )
    options.add_argument("--device", default="cpu", help="cpu (default) or cuda:N")
    options.add_argument("--gpu-layers", type=int, default=-1, metavar="N", help="default: all")
    options.add_argument("--all", action="store_true", help="a line for each shape, not only for each model")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 if a plan is further off than it may be, or a model cannot be loaded."""
    options = parser().parse_args(arguments)
    device = options.device.upper().replace(":", "")
    library, found = Library(), {}
    try:
        for path in options.models:
            trained_tokens = read_header(path).context_length or CONTEXTS[0]
            wanted = list(shapes(trained_tokens, options.gpu_layers))
            found[path.name] = list(compare(library, path, wanted, device))
    except ModelLoadFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, comparisons in found.items() if options.all else ():
        print(f"{name}\n\n{table(comparisons)}\n")
    print("\n".join([SUMMARY_HEAD, *(summary(*entry) for entry in found.items())]))
    return 0 if all(row.within for comparisons in found.values() for row in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
