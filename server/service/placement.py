"""Where a model goes, and whether it fits there: settings, ggml's devices and NVML's readings together."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.catalogue import Installed
from server.domain.errors import ModelLoadFailed
from server.engine.embeddings import is_causal, reads_in_one_piece
from server.engine.engine import logit_rows
from server.engine.llamacpp.library import Library
from server.gpu.guard import Sight, Watched
from server.gpu.host import available_ram_bytes
from server.gpu.nvml import GpuReading, Nvml
from server.gpu.placement import match_devices
from server.gpu.plan import MemoryPlan, plan_host_memory, plan_memory, refusal
from server.service.cards import cuda_devices

MIB = 2**20
RETURNED_SHARE = 0.8
"""Plans are on the safe side: so much of one must come back when its model goes."""

_LOOKS_FOR_RETURN, _BETWEEN_LOOKS_S = 10, 0.2
_CUDA_NAME = re.compile(r"CUDA(\d+)")


class NoRoom(ModelLoadFailed):
    """The device lacks ``missing_bytes`` for the model; the text has all the numbers."""

    def __init__(self, text: str, missing_bytes: int) -> None:
        super().__init__(text)
        self.missing_bytes = missing_bytes


@dataclass(frozen=True, slots=True)
class Placement:
    """``device`` in ggml's words (``CPU``, ``CUDA0``), the window, and the plan for that device's memory.

    ``host_bytes`` is what stays in the computer's own memory.
    """

    device: str
    context_tokens: int
    plan: MemoryPlan
    host_bytes: int

    @property
    def size_bytes(self) -> int:
        """What the model takes, wherever."""
        return self.host_bytes + self.vram_bytes

    @property
    def vram_bytes(self) -> int:
        """What it takes of a GPU; 0 on the CPU."""
        return 0 if self.device == "CPU" else self.plan.total_bytes - self.plan.margin_bytes

    @property
    def freed_bytes(self) -> int:
        """What its device has more once the model is gone. Mapped weights never count as taken on the CPU."""
        return self.plan.kv_bytes + self.plan.compute_bytes if self.device == "CPU" else self.vram_bytes


class Placements:
    """Checks a model against the device that its settings name, before anything is allocated."""

    def __init__(self, library: Library, nvml: Nvml) -> None:
        self._library = library
        self._nvml = nvml

    def gpus(self) -> tuple[GpuReading, ...]:
        """What NVML says of the cards now."""
        return self._nvml.devices()

    @property
    def gpu_fault(self) -> str | None:
        """Why there are no readings, or None."""
        return self._nvml.reason

    def sight(self, margins_bytes: Mapping[str, int]) -> Sight:
        """What is free on each device of ``margins_bytes``, and what is wrong with which card."""
        devices = {
            device: Watched(self.free_bytes(device), margin_bytes)
            for device, margin_bytes in margins_bytes.items()
        }
        cards = {f"GPU {card.index} ({card.name or 'unknown'})": card.fault for card in self.gpus()}
        faults = {name: fault for name, fault in cards.items() if fault}
        return Sight(devices, faults)

    def free_on_gpu(self, placement: Placement) -> int | None:
        """Free memory of the placement's GPU; None on the CPU, or if nobody knows."""
        index = _CUDA_NAME.fullmatch(placement.device)
        return self.free_bytes(f"cuda:{index[1]}") if index else None

    def kept_back(self, placement: Placement, before_bytes: int | None) -> str | None:
        """Where too little of a model's memory has come back since ``before_bytes`` were free: so in words.

        Blocks for up to two seconds: drivers take their time.
        """
        came_back_bytes = self._came_back(placement, before_bytes)
        for _ in range(_LOOKS_FOR_RETURN):
            if came_back_bytes is None or came_back_bytes >= RETURNED_SHARE * placement.vram_bytes:
                return None
            time.sleep(_BETWEEN_LOOKS_S)
            came_back_bytes = self._came_back(placement, before_bytes)
        return (
            f"only {max(came_back_bytes or 0, 0) // MIB} MiB of its {placement.vram_bytes // MIB} MiB on "
            f"{placement.device} came back; if that goes on, restart the service"
        )

    def _came_back(self, placement: Placement, before_bytes: int | None) -> int | None:
        free_bytes = self.free_on_gpu(placement)
        return None if before_bytes is None or free_bytes is None else free_bytes - before_bytes

    def place(self, installed: Installed) -> Placement:
        """Where the model goes.

        Raises:
            NoRoom: the device has too little free memory.
            ModelLoadFailed: the device is not there.
        """
        placement = self._plan(installed, installed.window_tokens)
        self._refuse(installed, placement.plan)
        return placement

    def regrow(self, installed: Installed, before: Placement, context_tokens: int) -> Placement:
        """The same place with a larger window.

        Raises:
            NoRoom: what it takes more is not free.
        """
        after = self._plan(installed, context_tokens)
        more = MemoryPlan(
            weights_bytes=0,
            kv_bytes=after.plan.kv_bytes - before.plan.kv_bytes,
            compute_bytes=after.plan.compute_bytes - before.plan.compute_bytes,
            margin_bytes=after.plan.margin_bytes,
        )
        self._refuse(installed, more)
        return after

    def _plan(self, installed: Installed, context_tokens: int) -> Placement:
        settings = installed.entry.settings
        device = self._ggml_device(installed)
        batch_tokens, output_tokens = _batch(installed, context_tokens)
        shape: dict[str, Any] = {
            "context_tokens": context_tokens,
            "batch_tokens": batch_tokens,
            "margin_bytes": settings.memory_margin_mib * MIB,
            "output_tokens": output_tokens,
            "flash_attention": settings.flash_attention != "off",
            "kv_type": settings.kv_type,
        }
        host = plan_host_memory(installed.header, **shape)
        if device == "CPU":
            return Placement(device, context_tokens, host, host.total_bytes - host.margin_bytes)
        plan = plan_memory(installed.header, gpu_layers=settings.gpu_layers, **shape)
        return Placement(device, context_tokens, plan, max(host.weights_bytes - plan.weights_bytes, 0))

    def _refuse(self, installed: Installed, plan: MemoryPlan) -> None:
        device = installed.entry.settings.device
        free_bytes = self.free_bytes(device)
        reason = refusal(plan, free_bytes, device, installed.entry.section)
        if reason is not None:
            missing_bytes = plan.total_bytes - (free_bytes or 0)
            raise NoRoom(f"model '{installed.entry.name.display}' {reason}", missing_bytes)

    def _ggml_device(self, installed: Installed) -> str:
        settings, section = installed.entry.settings, installed.entry.section
        if settings.device == "cpu":
            return "CPU"
        wanted = settings.device.replace(":", "").casefold()
        names = [device.name for device in self._library.devices()]
        if found := next((name for name in names if name.casefold() == wanted), None):
            return found
        seen = ", ".join(names)
        raise ModelLoadFailed(
            f'{section}.device = "{settings.device}", but this llama-cpp-python sees only: {seen}. '
            f'Install a CUDA build of it, or set {section}.device = "cpu"'
        )

    def free_bytes(self, device: str) -> int | None:
        """Free memory of a device: NVML's word, ggml's where NVML is silent; None if nobody knows."""
        if device == "cpu":
            return available_ram_bytes()
        if not device.startswith("cuda:"):
            return next(
                (
                    known.memory_free_bytes
                    for known in self._library.devices()
                    if known.name.casefold() == device.replace(":", "")
                ),
                None,
            )
        index = int(device.removeprefix("cuda:"))
        # Asked first: it makes CUDA take its own part of the card, which NVML then counts as used.
        cuda = cuda_devices(self._library)
        reading = match_devices([known for known, _ in cuda], self._nvml.devices()).get(index)
        if reading is not None and reading.memory_free_bytes is not None:
            return reading.memory_free_bytes
        return next((free for known, free in cuda if known.index == index), None)


def _batch(installed: Installed, context_tokens: int) -> tuple[int, int]:
    """How many tokens are read at once, and how many of them get a row of logits."""
    settings = installed.entry.settings
    if not installed.embeds:
        return settings.batch, logit_rows(settings.slots, settings.draft)
    in_one_piece = reads_in_one_piece(installed.header)
    batch_tokens = max(settings.batch, context_tokens) if in_one_piece else settings.batch
    # An encoder has no logits at all; a decoder that is read for its vectors computes them nonetheless.
    return batch_tokens, batch_tokens if is_causal(installed.header) else 0
