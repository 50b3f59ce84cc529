"""The last look at the cards, and cards that go, on a machine that is only told of."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from server.domain.errors import ModelLoadFailed
from server.engine.llamacpp.devices import Device
from server.gpu.guard import Watched
from server.gpu.nvml import GpuReading
from server.service.devices import Devices, Seen

MIB = 2**20
FAST = GpuReading(0, "GPU-2", "0000:01:00.0", "RTX 2060 SUPER", memory_free_bytes=7000 * MIB)
SMALL = GpuReading(1, "GPU-1", "0000:0a:00.0", "GTX 1050", memory_free_bytes=1900 * MIB)
LOST = GpuReading(1, fault="GPU is lost")


@dataclass
class GivenLibrary:
    """ggml's devices, and how often it was asked for them."""

    asked: Counter[str] = field(default_factory=Counter)

    def devices(self) -> tuple[Device, ...]:
        self.asked["devices"] += 1
        return (
            Device("CUDA0", "RTX 2060 SUPER", True, "0000:01:00.0", 8192 * MIB, 7777 * MIB),
            Device("CUDA1", "GTX 1050", True, "0000:0a:00.0", 2048 * MIB, 1777 * MIB),
            Device("Vulkan0", "Intel", True, None, 999 * MIB, 888 * MIB),
            Device("CPU", "CPU", False, None, 0, 0),
        )


@dataclass
class GivenNvml:
    cards: tuple[GpuReading, ...] = (FAST, SMALL)
    reason: str | None = None

    def devices(self) -> tuple[GpuReading, ...]:
        return self.cards


class Machine:
    def __init__(self) -> None:
        self.library, self.nvml = GivenLibrary(), GivenNvml()
        self.devices = Devices(self.library, self.nvml)  # type: ignore[arg-type]

    def watch(self, *names: str) -> list[Watched]:
        return list(self.devices.sight(dict.fromkeys(names, 100)).devices.values())


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_before_the_first_look_nothing_is_known(machine: Machine) -> None:
    assert machine.devices.seen() == Seen(None, (), (), "the cards are being looked at")


def test_the_cards_have_the_settings_names_once_cuda_was_asked(machine: Machine) -> None:
    machine.devices.sight({})
    assert (machine.devices.seen().cards, machine.devices.seen().names) == ((FAST, SMALL), (None, None))
    # A look does not make CUDA take a part of cards that nobody uses.
    assert not machine.library.asked
    assert machine.devices.free_bytes("cuda:1") == 1900 * MIB
    assert machine.devices.seen().names == ("cuda:0", "cuda:1")


def test_a_look_that_takes_too_long_is_told_of(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.devices.sight({})
    monkeypatch.setattr("server.service.devices.LATE_S", 0.0)
    assert machine.devices.seen().reason is None
    meanwhile: list[Seen] = []

    def slowly() -> tuple[GpuReading, ...]:
        meanwhile.append(machine.devices.seen())
        return ()

    monkeypatch.setattr(machine.nvml, "devices", slowly)
    machine.devices.sight({})
    (seen,) = meanwhile
    assert seen.cards == (FAST, SMALL)
    assert re.fullmatch(r"the NVIDIA driver has not answered since \d\d:\d\d:\d\d UTC", seen.reason or "")
    assert machine.devices.seen().reason is None


@pytest.mark.parametrize(
    ("cards", "fault", "free_mib"),
    [
        ((FAST, LOST), "GPU is lost", None),
        ((FAST, replace(SMALL, memory_free_bytes=None, fault="GPU is lost")), "GPU is lost", None),
        ((FAST,), "the card is no longer there", None),
        ((FAST, replace(SMALL, memory_free_bytes=None)), None, 1777),
    ],
)
def test_a_card_that_goes_is_told_of_by_its_name(
    machine: Machine, cards: tuple[GpuReading, ...], fault: str | None, free_mib: int | None
) -> None:
    assert machine.watch("cuda:1") == [Watched(1900 * MIB, 100)]
    asked = machine.library.asked["devices"]
    machine.nvml.cards = cards
    sight = machine.devices.sight({"cuda:0": 100, "cuda:1": 100})
    free_bytes = None if free_mib is None else free_mib * MIB
    assert sight.devices == {"cuda:0": Watched(7000 * MIB, 100), "cuda:1": Watched(free_bytes, 100, fault)}
    assert sight.faults == ({"GPU 1 (GTX 1050)": fault} if fault else {})
    # A question for the memory of a lost card ends the process.
    assert fault is None or machine.library.asked["devices"] == asked

    machine.nvml.cards = (FAST, SMALL)
    assert machine.devices.sight({"cuda:1": 100}).faults == {}


def test_a_card_that_cannot_be_used_takes_no_model(machine: Machine) -> None:
    machine.nvml.cards = (FAST, replace(SMALL, memory_free_bytes=None, fault="GPU is lost"))
    with pytest.raises(ModelLoadFailed, match=r"^cuda:1 cannot be used: GPU is lost; nvidia-smi tells more$"):
        machine.devices.free_bytes("cuda:1")
    assert machine.devices.free_bytes("cuda:0") == 7000 * MIB


def test_a_driver_that_breaks_is_a_fault_and_one_that_never_was_is_none(machine: Machine) -> None:
    machine.nvml.cards, machine.nvml.reason = (), "no driver"
    assert machine.devices.sight({}).faults == {}
    assert machine.watch("cuda:1") == [Watched(1777 * MIB, 100)]

    machine.nvml.cards, machine.nvml.reason = (FAST, SMALL), None
    assert machine.watch("cuda:1") == [Watched(1900 * MIB, 100)]
    machine.nvml.cards, machine.nvml.reason = (), "the NVIDIA driver fails"
    sight = machine.devices.sight({"cuda:1": 100})
    assert sight.faults == {"NVIDIA driver": "the NVIDIA driver fails"}
    assert sight.devices == {"cuda:1": Watched(None, 100)}


def test_other_devices_are_ggmls_business(machine: Machine) -> None:
    assert machine.watch("vulkan:0") == [Watched(888 * MIB, 100)]
    assert machine.devices.free_bytes("vulkan:0") == 888 * MIB
    assert machine.devices.free_bytes("vulkan:1") is None
