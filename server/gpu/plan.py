"""What a model will take of a device's memory, counted before anything is taken."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from server.engine.embeddings import is_causal
from server.engine.gguf.header import GgufHeader
from server.gpu.compute import Shape, Step, cells

_MIB = 2**20
_INPUT = -1
_LAYER = re.compile(r"blk\.([0-9]{1,9})\.")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one device's memory, by what they are for.

    ``compute_bytes`` is llama.cpp's compute buffer, ``output_bytes`` the rows that it hands out, which lie in
    host memory; ``scratch_bytes`` is taken for single operations. ``margin_bytes`` stays free.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    margin_bytes: int
    output_bytes: int = 0
    scratch_bytes: int = 0

    @property
    def computing_bytes(self) -> int:
        """What computing takes, in whichever buffer."""
        return self.compute_bytes + self.output_bytes + self.scratch_bytes

    @property
    def working_bytes(self) -> int:
        """All but weights and margin."""
        return self.kv_bytes + self.computing_bytes

    @property
    def taken_bytes(self) -> int:
        """All but the margin."""
        return self.weights_bytes + self.working_bytes

    @property
    def total_bytes(self) -> int:
        """All of it, the margin included."""
        return self.taken_bytes + self.margin_bytes

    def __str__(self) -> str:
        return (
            f"weights {_mib_up(self.weights_bytes)}, context {_mib_up(self.kv_bytes)}, "
            f"compute {_mib_up(self.computing_bytes)}, margin {_mib_up(self.margin_bytes)}"
        )


def sum_of(plans: Iterable[MemoryPlan]) -> MemoryPlan:
    """What several of them take together."""
    totals: Counter[str] = Counter()
    for plan in plans:
        totals.update(asdict(plan))
    return MemoryPlan(**{part.name: totals[part.name] for part in fields(MemoryPlan)})


def plan_memory(header: GgufHeader, shape: Shape, *, margin_bytes: int) -> MemoryPlan:
    """The GPU's share of a model of which ``shape.gpu_layers`` layers are put on the GPU.

    The CUDA context itself, some 100 to 200 MiB, is not counted: it is there before free memory is read. What
    ``margin_bytes`` must cover comes later: cuBLAS' handle and workspace, kernels, recorded graphs.

    Weights: llama.cpp fills a GPU from the model's end: first the output, then the last layers.
    The input embedding stays in host memory, unless it is the output too.
    KV: bytes per token, times the context rounded up to 256 tokens, times the share of layers here.
    Compute: see ``Step``. Where layers stay in host memory, the weights of each of their operations are
    copied over for long batches: one tensor at a time, the largest of them being added.

    Raises ValueError for an unknown ``shape.kv_type``.
    """
    layers = header.block_count or 0
    parts_here = _parts_on_gpu(header, shape)
    first_here = layers + 1 - parts_here
    step = Step(header, shape)
    has_layers = parts_here > 1
    compute_bytes = max(step.layers(on_gpu=True) if has_layers else 0, step.logits())
    return MemoryPlan(
        weights_bytes=sum(size for part, size in _bytes_by_part(header).items() if part >= first_here),
        kv_bytes=_share(_memory_bytes(header, shape), max(parts_here - 1, 0), layers),
        compute_bytes=compute_bytes + _largest_tensor(header, first_here) if parts_here else 0,
        margin_bytes=margin_bytes,
        scratch_bytes=step.scratch(on_gpu=True) if has_layers else 0,
    )


def plan_layers(
    header: GgufHeader, shape: Shape, layers: range, *, margin_bytes: int, on_gpu: bool | None
) -> MemoryPlan:
    """What a device takes that has some ``layers`` of a model, the output counting as the last.

    ``on_gpu`` None: it is not known whether a GPU computes there, and the larger of both is planned.
    """
    step, output = Step(header, shape), header.block_count or 0
    kinds = (True, False) if on_gpu is None else (on_gpu,)
    repeating = sum(layer < output for layer in layers)
    by_part = _bytes_by_part(header)
    compute_bytes = max((step.layers(on_gpu=kind) for kind in kinds), default=0) if repeating else 0
    return MemoryPlan(
        weights_bytes=sum(by_part[layer] for layer in layers),
        kv_bytes=_share(_memory_bytes(header, shape), repeating, output),
        compute_bytes=max(compute_bytes, step.logits() if output in layers else 0),
        margin_bytes=margin_bytes,
        scratch_bytes=max(step.scratch(on_gpu=kind) for kind in kinds) if repeating else 0,
    )


def plan_beside_split(header: GgufHeader, shape: Shape) -> MemoryPlan:
    """What the host takes for a model of which others have all layers: tokens go in, logits come out."""
    step = Step(header, shape)
    return MemoryPlan(
        weights_bytes=sum(tensor.size_bytes for tensor in header.tensors if _is_input(tensor.name)),
        kv_bytes=0,
        compute_bytes=step.beside_a_gpu(),
        margin_bytes=0,
        output_bytes=step.outputs(),
    )


def plan_host_memory(header: GgufHeader, shape: Shape, *, margin_bytes: int) -> MemoryPlan:
    """The host memory of a model that runs on the CPU alone.

    Each weight counts once. Where ggml rearranges weights for the CPU at hand it has a copy beside the mapped
    file, whose pages then are free to go.
    """
    step = Step(header, shape)
    return MemoryPlan(
        weights_bytes=header.weights_bytes,
        kv_bytes=_memory_bytes(header, shape),
        compute_bytes=max(step.layers(on_gpu=False), step.logits()),
        margin_bytes=margin_bytes,
        output_bytes=step.outputs(),
        scratch_bytes=step.scratch(on_gpu=False),
    )


def plan_beside_gpu(header: GgufHeader, shape: Shape) -> MemoryPlan:
    """The host memory of a model that runs on a GPU, or of the layers that are left to the CPU."""
    gpu, whole = plan_memory(header, shape, margin_bytes=0), plan_host_memory(header, shape, margin_bytes=0)
    parts_here = _parts_on_gpu(header, shape)
    step = Step(header, shape)
    if parts_here > (header.block_count or 0):
        compute_bytes, scratch_bytes = step.beside_a_gpu(), 0
    else:
        compute_bytes = step.layers(on_gpu=False) if parts_here else whole.compute_bytes
        scratch_bytes = whole.scratch_bytes
    return MemoryPlan(
        weights_bytes=max(whole.weights_bytes - gpu.weights_bytes, 0),
        kv_bytes=max(whole.kv_bytes - gpu.kv_bytes, 0),
        compute_bytes=compute_bytes,
        margin_bytes=0,
        output_bytes=whole.output_bytes,
        scratch_bytes=scratch_bytes,
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
        f"needs {_mib_up(plan.total_bytes)} MiB on {where} ({plan}) but {free_bytes // _MIB} MiB are free; "
        f"lower {lower}, or choose a smaller GGUF"
    )


def _parts_on_gpu(header: GgufHeader, shape: Shape) -> int:
    """Layers on the GPU; the output counts as one more."""
    most = (header.block_count or 0) + 1
    return most if shape.gpu_layers < 0 else min(shape.gpu_layers, most)


def _bytes_by_part(header: GgufHeader) -> Counter[int]:
    """Bytes of each layer, by its number; the output counts as one layer more, the input as -1."""
    parts: Counter[int] = Counter()
    for part, size_bytes in _tensors(header):
        parts[part] += size_bytes
    return parts


def _largest_tensor(header: GgufHeader, first_here: int) -> int:
    """Bytes of the largest tensor in the layers before ``first_here``."""
    return max((size for part, size in _tensors(header) if _INPUT < part < first_here), default=0)


def _tensors(header: GgufHeader) -> list[tuple[int, int]]:
    """The layer and the bytes of each tensor."""
    output = header.block_count or 0
    tied = not any(tensor.name.startswith("output.") for tensor in header.tensors)
    return [(_part(tensor.name, output, tied), tensor.size_bytes) for tensor in header.tensors]


def _is_input(tensor_name: str) -> bool:
    return tensor_name.startswith("token_embd.")


def _part(tensor_name: str, output: int, tied: bool) -> int:
    if _is_input(tensor_name) and not tied:
        return _INPUT
    layer = _LAYER.match(tensor_name)
    return output if layer is None else int(layer[1])


def _memory_bytes(header: GgufHeader, shape: Shape) -> int:
    """KV cache of all layers, and the states of recurrent ones; an encoder has neither."""
    if not is_causal(header):
        return 0
    kv_bytes = cells(shape.context_tokens) * (header.kv_bytes_per_token(shape.kv_type) or 0)
    return kv_bytes + shape.sequences * header.state_bytes


def _share(total: int, part: int, whole: int) -> int:
    return -(-total * part // whole) if whole else total


def _mib_up(size_bytes: int) -> int:
    return -(-size_bytes // _MIB)
