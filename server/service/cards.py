"""The cards that a model may go to, by whatever name the settings call them."""

from collections.abc import Iterable
from typing import Any

from server.config import ModelSettings, Settings
from server.config.devices import names_a_card
from server.engine.llamacpp.devices import Device
from server.engine.llamacpp.library import Library
from server.gpu.nvml import Nvml
from server.gpu.placement import CudaDevice, cuda_index


def with_cuda_numbers(settings: Settings, library: Library, nvml: Nvml) -> Settings:
    """The settings with ``cuda:N`` for cards that they name by UUID or PCI address.

    What cannot be found stays as it is: loading that model then says what there is.
    """
    changed: dict[str, Any] = {
        role: model.model_copy(update=_numbered(model, library, nvml))
        for role, model in (("generator", settings.generator), ("helper", settings.helper))
        if model.names_a_card
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


def _numbered(model: ModelSettings, library: Library, nvml: Nvml) -> dict[str, Any]:
    """The settings that name devices."""
    cuda, cards = cuda_devices(library.devices()), nvml.devices()

    def number(device: str) -> str:
        index = cuda_index(device, cuda, cards) if names_a_card(device) else None
        return device if index is None else f"cuda:{index}"

    return {"device": number(model.device), "devices": tuple(map(number, model.devices))}
