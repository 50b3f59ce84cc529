"""What the devices have: ggml's and NVML's words together. Everything here may block."""

import re
import time
from collections.abc import Mapping

from server.domain.errors import ModelLoadFailed
from server.engine.llamacpp.library import Library
from server.gpu.guard import Sight, Watched
from server.gpu.host import available_ram_bytes
from server.gpu.nvml import GpuReading, Nvml
from server.gpu.placement import match_devices
from server.service.cards import cuda_devices

RETURNED_SHARE = 0.8
"""Plans are on the safe side: so much of one must come back when its model goes."""

_MIB = 2**20
_LOOKS_FOR_RETURN, _BETWEEN_LOOKS_S = 10, 0.2
_CUDA_NAME = re.compile(r"CUDA(\d+)")


class Devices:
    """The devices of this machine, by the names that the settings give them (``cpu``, ``cuda:0``)."""

    def __init__(self, library: Library, nvml: Nvml) -> None:
        self._library = library
        self._nvml = nvml

    def gpus(self) -> tuple[GpuReading, ...]:
        """What NVML says of the cards now."""
        return self._nvml.devices()

    @property
    def versions(self) -> tuple[str, str | None]:
        """Of the binding, and of the NVIDIA driver where there is one."""
        return self._library.version, self._nvml.driver_version

    @property
    def gpu_fault(self) -> str | None:
        """Why there are no readings, or None."""
        return self._nvml.reason

    def ggml_name(self, device: str, section: str) -> str:
        """ggml's name of a device. ``section`` of the settings asks for it.

        Raises:
            ModelLoadFailed: it is not there.
        """
        if device == "cpu":
            return "CPU"
        names = [known.name for known in self._library.devices()]
        found = next((name for name in names if name.casefold() == device.replace(":", "").casefold()), None)
        if found is not None:
            return found
        seen = ", ".join(names)
        raise ModelLoadFailed(
            f'{section}.device = "{device}", but this llama-cpp-python sees only: {seen}. '
            f'Install a CUDA build of it, or set {section}.device = "cpu"'
        )

    def free_bytes(self, device: str) -> int | None:
        """Free memory of a device: NVML's word, ggml's where NVML is silent; None if nobody knows."""
        if device == "cpu":
            return available_ram_bytes()
        if not device.startswith("cuda:"):
            name = device.replace(":", "")
            others = (known for known in self._library.devices() if known.name.casefold() == name)
            return next((known.memory_free_bytes for known in others), None)
        index = int(device.removeprefix("cuda:"))
        # Asked first: it makes CUDA take its own part of the card, which NVML then counts as used.
        cuda = cuda_devices(self._library)
        reading = match_devices([known for known, _ in cuda], self._nvml.devices()).get(index)
        if reading is not None and reading.memory_free_bytes is not None:
            return reading.memory_free_bytes
        return next((free for known, free in cuda if known.index == index), None)

    def sight(self, margins_bytes: Mapping[str, int]) -> Sight:
        """What is free on each device of ``margins_bytes``, and what is wrong with which card."""
        devices = {
            device: Watched(self.free_bytes(device), margin_bytes)
            for device, margin_bytes in margins_bytes.items()
        }
        cards = {f"GPU {card.index} ({card.name or 'unknown'})": card.fault for card in self.gpus()}
        return Sight(devices, {name: fault for name, fault in cards.items() if fault})

    def free_on_gpu(self, ggml_device: str) -> int | None:
        """Free memory of a CUDA device by ggml's name; None for others, or if nobody knows."""
        index = _CUDA_NAME.fullmatch(ggml_device)
        return self.free_bytes(f"cuda:{index[1]}") if index else None

    def kept_back(self, ggml_device: str, taken_bytes: int, before_bytes: int | None) -> str | None:
        """Where too little of ``taken_bytes`` has come back since ``before_bytes`` were free: so in words.

        Waits up to two seconds: drivers take their time.
        """
        came_back_bytes = self._came_back(ggml_device, before_bytes)
        for _ in range(_LOOKS_FOR_RETURN):
            if came_back_bytes is None or came_back_bytes >= RETURNED_SHARE * taken_bytes:
                return None
            time.sleep(_BETWEEN_LOOKS_S)
            came_back_bytes = self._came_back(ggml_device, before_bytes)
        return (
            f"only {max(came_back_bytes or 0, 0) // _MIB} MiB of its {taken_bytes // _MIB} MiB on "
            f"{ggml_device} came back; if that goes on, restart the service"
        )

    def _came_back(self, ggml_device: str, before_bytes: int | None) -> int | None:
        free_bytes = self.free_on_gpu(ggml_device)
        return None if before_bytes is None or free_bytes is None else free_bytes - before_bytes
