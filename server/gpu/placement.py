"""Which of NVML's cards is the device that an engine runs on. CUDA and NVML number cards differently."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from server.gpu.nvml import GpuReading, normalise_pci_bus_id

UUID_PREFIX = "GPU-"
VANISHED = "the card is no longer there"
_TOTAL_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A CUDA device as ggml reports it.

    ``index`` is CUDA's own: fastest first, or as CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER say.
    """

    index: int
    name: str
    pci_bus_id: str | None = None
    memory_total_bytes: int | None = None


def match_devices(cuda: Iterable[CudaDevice], nvml: Iterable[GpuReading]) -> Mapping[int, GpuReading]:
    """The reading of each CUDA device, by CUDA's index. A device that cannot be told for sure is left out.

    Devices are matched by PCI bus id; where one side does not know it, by name and total memory
    if exactly one device and one card fit each other.
    """
    devices, readings = tuple(cuda), tuple(nvml)
    by_bus_id = _match_bus_ids(devices, readings)
    taken = {reading.index for reading in by_bus_id.values()}
    by_name = _match_names(
        [device for device in devices if device.index not in by_bus_id],
        [reading for reading in readings if reading.index not in taken],
    )
    return {**by_bus_id, **by_name}


def with_vanished(before: Iterable[GpuReading], now: Iterable[GpuReading]) -> tuple[GpuReading, ...]:
    """The cards of a look, with those that were there ``before`` and have gone as faulty ones.

    A faulty card that tells nothing of itself any more is known by its number.
    """
    readings = tuple(now)
    there = {one for card in readings for one in _identities(card)}
    gone = [card for card in before if _identities(card) and there.isdisjoint(_identities(card))]
    nameless = {card.index for card in readings if not _identities(card)}
    lost = {card.index: card for card in gone if card.index in nameless}
    return (
        *(_named(card, lost.get(card.index)) for card in readings),
        *(
            replace(_named(GpuReading(card.index), card), fault=VANISHED)
            for card in gone
            if card not in lost.values()
        ),
    )


def cuda_index(wanted: str, cuda: Iterable[CudaDevice], nvml: Iterable[GpuReading]) -> int | None:
    """CUDA's number of the card with a UUID (or its beginning, as in CUDA_VISIBLE_DEVICES) or a PCI bus id.

    None: no such card is to be seen, or more than one.
    """
    devices = tuple(cuda)
    matched = match_devices(devices, nvml)
    if wanted.lower().startswith(UUID_PREFIX.lower()):
        found = [
            index
            for index, card in matched.items()
            if card.uuid is not None and card.uuid.lower().startswith(wanted.lower())
        ]
    else:
        bus_id = normalise_pci_bus_id(wanted)
        known = {device.index: device.pci_bus_id for device in devices if device.pci_bus_id is not None}
        known.update(
            {index: card.pci_bus_id for index, card in matched.items() if card.pci_bus_id is not None}
        )
        found = [index for index, place in known.items() if normalise_pci_bus_id(place) == bus_id]
    return found[0] if len(found) == 1 else None


def _identities(card: GpuReading) -> set[str]:
    return {one for one in (card.uuid, card.pci_bus_id) if one is not None}


def _named(card: GpuReading, known: GpuReading | None) -> GpuReading:
    """``card``, which may not say what it is, as the ``known`` one."""
    if known is None or _identities(card):
        return card
    return replace(card, uuid=known.uuid, pci_bus_id=known.pci_bus_id, name=known.name)


def _match_bus_ids(devices: Iterable[CudaDevice], readings: Iterable[GpuReading]) -> dict[int, GpuReading]:
    cards = {normalise_pci_bus_id(card.pci_bus_id): card for card in readings if card.pci_bus_id is not None}
    return {
        device.index: cards[bus_id]
        for device in devices
        if device.pci_bus_id is not None and (bus_id := normalise_pci_bus_id(device.pci_bus_id)) in cards
    }


def _match_names(devices: Iterable[CudaDevice], readings: Iterable[GpuReading]) -> dict[int, GpuReading]:
    pairs = [(device, card) for device in devices for card in readings if _may_be_same(device, card)]
    fitting_devices = [device.index for device, _ in pairs]
    fitting_cards = [card.index for _, card in pairs]
    return {
        device.index: card
        for device, card in pairs
        if fitting_devices.count(device.index) == fitting_cards.count(card.index) == 1
    }


def _may_be_same(device: CudaDevice, card: GpuReading) -> bool:
    if device.pci_bus_id is not None and card.pci_bus_id is not None:
        return False
    if card.name is None or _plain_name(device.name) != _plain_name(card.name):
        return False
    return _similar(device.memory_total_bytes, card.memory_total_bytes)


def _plain_name(name: str) -> str:
    # drivers before 470 left the maker out
    return name.strip().casefold().removeprefix("nvidia ")


def _similar(one_bytes: int | None, other_bytes: int | None) -> bool:
    """CUDA's total leaves out what the driver reserves, so the two totals of one card differ a little."""
    if one_bytes is None or other_bytes is None:
        return True
    return abs(one_bytes - other_bytes) <= _TOTAL_TOLERANCE * max(one_bytes, other_bytes)
