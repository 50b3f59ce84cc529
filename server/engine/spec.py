"""How a model is to be loaded, and what follows from it."""

import os
from dataclasses import dataclass
from pathlib import Path

LASTING = 4
"""Beginnings that are kept beside the finished conversations."""

_THREADS_BESIDE_A_GPU = 4


@dataclass(frozen=True, slots=True)
class Share:
    """``layers`` of a model on a device, the output counting as one: on one of this machine by ggml's name,
    or on device ``number`` of the rpc server at ``device``, which is ``address:port`` then."""

    device: str
    layers: int
    number: int | None = None


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to load a model. ``device`` is ggml's name for it (``CPU``, ``CUDA0``); ``gpu_layers`` -1 is all;
    ``flash_attention`` is ``on``, ``off`` or ``auto``; ``threads`` 0 is what :func:`default_threads` finds.

    ``stall_s`` is how long a prompt that is being read may hold up other answers, ``draft_tokens`` how
    many may be guessed at once. ``digest`` names the file's content; states go to ``cache_dir`` under it.
    ``shares``: what each of several devices has of the model; none: ``device`` has all of it.
    """

    path: Path
    device: str
    context_tokens: int
    gpu_layers: int = -1
    kv_type: str = "f16"
    flash_attention: str = "auto"
    threads: int = 0
    slots: int = 8
    queue: int = 64
    batch_tokens: int = 512
    stall_s: float = 0.25
    draft_tokens: int = 63
    digest: str = ""
    host_cache_bytes: int = 0
    cache_dir: Path | None = None
    disk_cache_bytes: int = 0
    shares: tuple[Share, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether something else than the CPU of this machine computes."""
        return (self.device != "CPU" and self.gpu_layers != 0) or bool(self.shares)

    @property
    def cpu_waits(self) -> bool:
        """Whether the CPU of this machine has no layers of its own."""
        return self.on_gpu and not any(share.device == "CPU" and share.layers for share in self.shares)

    @property
    def sequences(self) -> int:
        """Conversations in the cache: as many finished ones as can run, and some lasting beginnings."""
        return sequences_of(self.slots)

    @property
    def outputs(self) -> int:
        """Tokens of a batch that may ask for logits."""
        return logit_rows(self.slots, self.draft_tokens)


def sequences_of(slots: int) -> int:
    """Conversations that an engine's cache has numbers for."""
    return 2 * slots + LASTING


def logit_rows(slots: int, draft_tokens: int) -> int:
    """Rows of logits that an engine allocates: llama.cpp wants one for each sequence at least."""
    return max(sequences_of(slots), slots + draft_tokens)


def default_threads(*, on_gpu: bool) -> int:
    """Threads that compute: one a core, but few where a GPU does the work."""
    return min(usable_cores(), _THREADS_BESIDE_A_GPU) if on_gpu else usable_cores()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
