"""The cards that a model may go to, by whatever name the settings call them."""

from collections.abc import Iterable
from typing import Any

from server.config import ModelSettings, Settings
from server.engine.llamacpp.devices import Device
from server.engine.llamacpp.library import Library
from server.gpu.nvml import Nvml
from server.gpu.placement import CudaDevice, cuda_index


def with_cuda_numbers(settings: Settings, library: Library, nvml: Nvml) -> Settings:
    """The settings with ``cuda:N`` for cards that they name by UUID or PCI address.

    What cannot be found stays as it is: loading that model then says what there is.
    """
    changed: dict[str, Any] = {
        role: model.model_copy(update={"device": device})
        for role, model in (("generator", settings.generator), ("helper", settings.helper))
        if (device := _numbered(model, library, nvml)) is not None
    }
    return settings.model_copy(update=changed)


def cuda_devices(devices: Iterable[Device]) -> list[CudaDevice]:
    """Those of ggml's devices that are CUDA's."""
    return [
        CudaDevice(
            int(device.name.removeprefix("CUDA")),
            device.description,
            device.pci_bus_id,
            device.memory_total_bytes,
        )
        for device in devices
        if device.name.startswith("CUDA")
    ]


def _numbered(model: ModelSettings, library: Library, nvml: Nvml) -> str | None:
    if not model.names_a_card:
        return None
    index = cuda_index(model.device, cuda_devices(library.devices()), nvml.devices())
    return None if index is None else f"cuda:{index}"
