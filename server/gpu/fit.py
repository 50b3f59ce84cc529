"""What is given up, and in which order, where a model does not fit its device as it should be: pure."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from server.engine.gguf.header import GgufHeader
from server.gpu.plan import MemoryPlan

SMALLEST_BATCH_TOKENS = 128
SMALLEST_CONTEXT_TOKENS = 2048
SAFER_PART, SAFER_BYTES = 16, 64 * 2**20
"""A sixteenth of a plan that ended the process is left away, but at least so many bytes: nobody knows what
was missing."""

_CONTEXT_STEP_TOKENS = 256
_QUANTISED_BLOCK = 32

EFFECTS: Mapping[str, str] = MappingProxyType(
    {
        "draft": "fewer tokens are guessed at once",
        "batch": "long prompts are read in shorter steps, which is slower",
        "kv_type": "the attention cache has 8 bits instead of 16",
        "context": "the context window is shorter",
        "gpu_layers": "the CPU computes the other layers, which is much slower",
    }
)
"""The settings that are given up, those first that are missed least, and what that means."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The settings that memory can be saved with."""

    draft: int
    batch: int
    kv_type: str
    context: int
    gpu_layers: int


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that was given up: what was ``wished`` for, what is ``planned``, and what that means."""

    setting: str
    wished: int | str
    planned: int | str
    effect: str


Ladders = Mapping[str, Sequence[Any]]
"""For each setting that may be given up its values, from the least to the one that is wished for."""


def ladders(
    header: GgufHeader, wished: Tuning, *, flash_attention: bool, kept: Collection[str], spills: bool
) -> Ladders:
    """How far each setting may be given up; the names in ``kept`` may not.

    ``spills``: layers may go to the CPU, too.
    """
    layers = (header.block_count or 0) + 1
    wished_layers = layers if wished.gpu_layers < 0 else min(wished.gpu_layers, layers)
    all_of_them = {
        "draft": range(wished.draft + 1),
        "batch": _batches(wished.batch),
        "kv_type": _kv_types(header, wished.kv_type, flash_attention=flash_attention),
        "context": _contexts(wished.context),
        "gpu_layers": (*range(wished_layers), wished.gpu_layers) if spills else (wished.gpu_layers,),
    }
    return {name: ladder for name, ladder in all_of_them.items() if name not in kept and len(ladder) > 1}


def fitting_plan(
    wished: Tuning, steps: Ladders, needs: Callable[[Tuning], MemoryPlan], free_bytes: int
) -> Tuning | None:
    """The best that fits into ``free_bytes``; None where nothing does."""
    return best(wished, steps, lambda tuning: needs(tuning).total_bytes > free_bytes)


def best(wished: Tuning, steps: Ladders, is_too_much: Callable[[Tuning], bool]) -> Tuning | None:
    """The best that is not too much; None where all is.

    What is missed most comes first: as much of it as fits with all else given up, then as much of the next,
    and so on. So nothing is given up in vain, and nothing for the sake of what is missed less.
    """
    found = least(wished, steps)
    if is_too_much(found):
        return None
    for name in reversed([name for name in EFFECTS if name in steps]):
        rungs = [replace(found, **{name: value}) for value in steps[name]]
        found = rungs[max(bisect_left(rungs, True, key=is_too_much) - 1, 0)]
    return found


def least(wished: Tuning, steps: Ladders) -> Tuning:
    """All given up that may be."""
    return replace(wished, **{name: ladder[0] for name, ladder in steps.items()})


def safer_bytes(crashed_bytes: int) -> int:
    """The largest plan that is worth a try after one of ``crashed_bytes`` has ended the process."""
    return crashed_bytes - max(crashed_bytes // SAFER_PART, SAFER_BYTES)


def changes(wished: Tuning, planned: Tuning) -> tuple[Change, ...]:
    """Where the two differ, in the order in which things are given up."""
    pairs = {part.name: (getattr(wished, part.name), getattr(planned, part.name)) for part in fields(Tuning)}
    return tuple(
        Change(name, *pairs[name], effect)
        for name, effect in EFFECTS.items()
        if pairs[name][0] != pairs[name][1]
    )


def _batches(wished: int) -> tuple[int, ...]:
    """Halves of halves, as far as a step still pays."""
    halves = [wished]
    while halves[-1] // 2 >= SMALLEST_BATCH_TOKENS:
        halves.append(halves[-1] // 2)
    return tuple(reversed(halves))


def _kv_types(header: GgufHeader, wished: str, *, flash_attention: bool) -> tuple[str, ...]:
    """llama.cpp keeps a quantised cache only with flash attention, and only of heads that its blocks fill."""
    widths = header.key_length or 0, header.value_length or 0
    fills_blocks = all(width and width % _QUANTISED_BLOCK == 0 for width in widths)
    return ("q8_0", "f16") if wished == "f16" and flash_attention and fills_blocks else (wished,)


def _contexts(wished: int) -> tuple[int, ...]:
    return (*range(SMALLEST_CONTEXT_TOKENS, wished, _CONTEXT_STEP_TOKENS), wished)
