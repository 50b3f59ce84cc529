"""Cards that the settings name by UUID or PCI address, on a machine that is only told of."""

from typing import Any

import pytest

from server.config import Settings, load_settings
from server.engine.llamacpp.devices import Device
from server.gpu.nvml import GpuReading
from server.service.cards import with_cuda_numbers

MIB = 2**20


class Machine:
    """CUDA counts the fast card first, NVML the one in the first slot."""

    def devices(self) -> tuple[Device, ...]:
        return (
            Device("CUDA0", "NVIDIA GeForce RTX 2060 SUPER", True, "0000:0a:00.0", 8192 * MIB, 8000 * MIB),
            Device("CUDA1", "NVIDIA GeForce GTX 1050", True, "0000:01:00.0", 2048 * MIB, 2000 * MIB),
            Device("CPU", "a CPU", False, None, 1, 1),
        )


class Driver:
    def devices(self) -> tuple[GpuReading, ...]:
        return (
            GpuReading(0, uuid="GPU-10500000-0000", pci_bus_id="0000:01:00.0"),
            GpuReading(1, uuid="GPU-20600000-0000", pci_bus_id="0000:0a:00.0"),
        )


def settled(generator: str, helper: str) -> Settings:
    flags: dict[str, Any] = {"generator": {"device": generator}, "helper": {"device": helper}}
    machine, driver = Machine(), Driver()
    return with_cuda_numbers(load_settings(None, {}, flags), machine, driver)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("generator", "helper"),
    [("GPU-20600000-0000", "GPU-1050"), ("0000:0a:00.0", "01:00.0"), ("cuda:0", "GPU-10500000")],
)
def test_cards_get_cudas_numbers(generator: str, helper: str) -> None:
    settings = settled(generator, helper)
    assert (settings.generator.device, settings.helper.device) == ("cuda:0", "cuda:1")


def test_what_is_not_there_stays_as_it_is() -> None:
    settings = settled("GPU-99999999", "cpu")
    assert (settings.generator.device, settings.helper.device) == ("GPU-99999999", "cpu")
