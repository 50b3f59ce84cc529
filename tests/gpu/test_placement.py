import pytest

from server.gpu.nvml import GpuReading
from server.gpu.placement import CudaDevice, cuda_index, match_devices, with_vanished

MIB = 2**20
RTX, GTX = "NVIDIA GeForce RTX 2060 SUPER", "NVIDIA GeForce GTX 1050"


def card(index: int, name: str | None, bus: str | None, total_mib: int | None) -> GpuReading:
    total_bytes = None if total_mib is None else total_mib * MIB
    return GpuReading(index=index, name=name, pci_bus_id=bus, memory_total_bytes=total_bytes)


def device(index: int, name: str, bus: str | None = None, total_mib: int | None = None) -> CudaDevice:
    return CudaDevice(index, name, bus, None if total_mib is None else total_mib * MIB)


# by PCI bus the small card comes first, by speed the big one
SMALL_FIRST = (card(0, GTX, "0000:01:00.0", 2048), card(1, RTX, "0000:0a:00.0", 8192))


@pytest.mark.parametrize(
    ("cuda", "nvml", "expected"),
    [
        pytest.param(
            [device(0, RTX, "0000:0a:00.0"), device(1, GTX, "0000:01:00.0")],
            SMALL_FIRST,
            {0: 1, 1: 0},
            id="by bus id, in opposite orders",
        ),
        pytest.param(
            [device(0, RTX, "00000000:0A:00.0"), device(1, GTX, "00000000:01:00.0")],
            SMALL_FIRST,
            {0: 1, 1: 0},
            id="by bus id in another spelling",
        ),
        pytest.param(
            [device(0, RTX, None, 7966), device(1, GTX, None, 1999)],
            SMALL_FIRST,
            {0: 1, 1: 0},
            id="by name, CUDA's total being a little smaller",
        ),
        pytest.param(
            [device(0, "GeForce RTX 2060 SUPER"), device(1, "geforce gtx 1050")],
            SMALL_FIRST,
            {0: 1, 1: 0},
            id="by name as old drivers write it, totals unknown",
        ),
        pytest.param([device(0, GTX, "0000:01:00.0")], SMALL_FIRST, {0: 0}, id="one card hidden from CUDA"),
        pytest.param([device(0, RTX)], SMALL_FIRST[:1], {}, id="another card"),
        pytest.param(
            [device(0, RTX, "0000:0b:00.0", 8192)], SMALL_FIRST, {}, id="same name at another bus id"
        ),
        pytest.param(
            [device(0, GTX, None, 2048), device(1, GTX, None, 2048)],
            [card(0, GTX, "0000:01:00.0", 2048), card(1, GTX, "0000:0a:00.0", 2048)],
            {},
            id="twins without bus ids cannot be told apart",
        ),
        pytest.param(
            [device(0, GTX, None, 4040), device(1, GTX, None, 2000)],
            [card(0, GTX, "0000:01:00.0", 2048), card(1, GTX, "0000:0a:00.0", 4096)],
            {0: 1, 1: 0},
            id="same name, told apart by their totals",
        ),
        pytest.param(
            [device(0, GTX, "0000:0a:00.0", 2000), device(1, GTX, None, 2000)],
            [card(0, GTX, "0000:01:00.0", 2048), card(1, GTX, "0000:0a:00.0", 2048)],
            {0: 1, 1: 0},
            id="one twin known by its bus id leaves the other",
        ),
        pytest.param(
            [device(0, GTX), device(1, GTX)], SMALL_FIRST[:1], {}, id="two devices for one card of the name"
        ),
        pytest.param(
            [device(0, RTX, "0000:0a:00.0", 8192)],
            [card(0, RTX, None, 8192)],
            {0: 0},
            id="the card does not tell its bus id",
        ),
        pytest.param([device(0, RTX)], [card(0, None, None, None)], {}, id="the card tells nothing"),
        pytest.param([], SMALL_FIRST, {}, id="no CUDA"),
        pytest.param([device(0, RTX)], [], {}, id="no NVML"),
    ],
)
def test_devices_are_matched(
    cuda: list[CudaDevice], nvml: list[GpuReading], expected: dict[int, int]
) -> None:
    matched = match_devices(cuda, nvml)

    assert {index: reading.index for index, reading in matched.items()} == expected


UUIDS = ("GPU-20600000-0000-0000-0000-000000000001", "GPU-10500000-0000-0000-0000-000000000002")


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (UUIDS[0], 1),
        (UUIDS[1].lower(), 0),
        ("GPU-2060", 1),
        ("GPU-", None),
        ("GPU-9999", None),
        ("0000:0A:00.0", 0),
        ("00000000:01:00.0", 1),
        ("0000:02:00.0", None),
    ],
)
def test_a_card_by_its_uuid_or_its_place(wanted: str, index: int | None) -> None:
    """CUDA counts the other way round than NVML here."""
    cuda = [
        CudaDevice(0, "NVIDIA GeForce GTX 1050", "0000:0a:00.0"),
        CudaDevice(1, "NVIDIA GeForce RTX 2060 SUPER", "0000:01:00.0"),
    ]
    cards = [
        GpuReading(0, uuid=UUIDS[0], pci_bus_id="0000:01:00.0", name="NVIDIA GeForce RTX 2060 SUPER"),
        GpuReading(1, uuid=UUIDS[1], pci_bus_id="0000:0a:00.0", name="NVIDIA GeForce GTX 1050"),
    ]
    assert cuda_index(wanted, cuda, cards) == index


FIRST, SECOND = GpuReading(0, "GPU-a", "01", "one"), GpuReading(1, "GPU-b", "0a", "two")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ((FIRST, SECOND), (FIRST, SECOND)),
        ((FIRST,), (FIRST, GpuReading(1, "GPU-b", "0a", "two", fault="the card is no longer there"))),
        # NVML counts anew: the other card has its number now.
        (
            (GpuReading(0, "GPU-b"),),
            (
                GpuReading(0, "GPU-b"),
                GpuReading(0, "GPU-a", "01", "one", fault="the card is no longer there"),
            ),
        ),
        # One look without a name is no other card.
        ((FIRST, GpuReading(1, None, "0a", "two")), (FIRST, GpuReading(1, None, "0a", "two"))),
        ((FIRST, GpuReading(1, fault="lost")), (FIRST, GpuReading(1, "GPU-b", "0a", "two", fault="lost"))),
        (
            (FIRST, SECOND, GpuReading(2, fault="lost")),
            (FIRST, SECOND, GpuReading(2, fault="lost")),
        ),
    ],
)
def test_cards_that_were_there_stay_known(
    now: tuple[GpuReading, ...], expected: tuple[GpuReading, ...]
) -> None:
    assert with_vanished((FIRST, SECOND), now) == expected
    # As long as it is gone.
    assert with_vanished(expected, now) == expected
