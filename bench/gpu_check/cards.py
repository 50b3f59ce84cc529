"""Which card each model goes to, and what is used of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.gpu_check.parts import CannotRun, Faulty
from server.gpu.nvml import GpuReading, Nvml

GENERATOR, HELPER = "generator", "helper"


@dataclass(frozen=True, slots=True)
class Place:
    """A device as the settings name it, and the card that it is; None for the CPU."""

    device: str
    card: GpuReading | None = None


def places(cards: Sequence[GpuReading], chosen: Sequence[int]) -> dict[str, Place]:
    """The places of generator and helper: two cards, the larger one first, or one for both, or the CPU.

    ``chosen`` has the numbers of the cards, as nvidia-smi counts, where the user wants certain ones.
    Raises CannotRun for a number that no usable card has.
    """
    usable = {card.index: card for card in cards if card.fault is None and card.uuid is not None}
    unknown = [str(number) for number in chosen if number not in usable]
    if unknown:
        there = ", ".join(map(str, usable)) or "none"
        raise CannotRun(f"no usable card has the number {', '.join(unknown)}; those here: {there}")
    wanted = [usable[number] for number in chosen] or sorted(
        usable.values(), key=lambda card: -(card.memory_total_bytes or 0)
    )
    if not wanted:
        return {GENERATOR: Place("cpu"), HELPER: Place("cpu")}
    return {
        role: _place(wanted[min(number, len(wanted) - 1)]) for number, role in enumerate((GENERATOR, HELPER))
    }


def used_bytes(nvml: Nvml, card: GpuReading) -> int:
    """What all programs together use of a card now. Raises Faulty where the card does not tell."""
    for reading in nvml.devices():
        if reading.uuid == card.uuid and reading.memory_used_bytes is not None:
            return reading.memory_used_bytes
    raise Faulty(f"NVML does not tell the memory of card {card.index} ({card.name}) any more")


def _place(card: GpuReading) -> Place:
    return Place(card.uuid or "cpu", card)
