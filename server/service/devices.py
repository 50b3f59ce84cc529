"""What the devices have: ggml's and NVML's words together. All but :meth:`Devices.seen` may block."""

import datetime
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from server.domain.errors import ModelLoadFailed
from server.engine.llamacpp.devices import Device
from server.engine.llamacpp.library import Library
from server.gpu.guard import Sight, Watched
from server.gpu.host import available_ram_bytes
from server.gpu.nvml import GpuReading, Nvml
from server.gpu.placement import match_devices, with_vanished
from server.service.cards import cuda_devices

RETURNED_SHARE = 0.8
"""Plans are on the safe side: so much of one must come back when its model goes."""

LATE_S = 5.0
"""A look that takes so long is told of."""

_MIB = 2**20
_LOOKS_FOR_RETURN, _BETWEEN_LOOKS_S = 10, 0.2
_CUDA_NAME = re.compile(r"CUDA(\d+)")
_DRIVER = "NVIDIA driver"


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at the cards; ``at`` None: there was none yet. ``reason`` says why there are no cards, or why
    they are as they were and not as they are.

    ``names`` has the ``cuda:N`` of each of ``cards``, None where it is not known.
    """

    at: datetime.datetime | None = None
    cards: tuple[GpuReading, ...] = ()
    names: tuple[str | None, ...] = ()
    reason: str | None = "the cards are being looked at"


def own_bytes_of(reading: GpuReading, own_pid: int, *, uses_it: bool) -> int | None:
    """What this process has of a card. In a container the driver knows it by another number: then it is
    unknown where something is there for sure (``uses_it``)."""
    if reading.processes is None:
        return None
    listed = [process for process in reading.processes if process.pid == own_pid]
    return listed[0].memory_bytes if listed else None if uses_it else 0


def others_bytes_of(reading: GpuReading, own_bytes: int | None) -> int | None:
    """What all others have of a card, the driver included, where this process has ``own_bytes``."""
    used_bytes = reading.memory_used_bytes
    return None if own_bytes is None or used_bytes is None else max(used_bytes - own_bytes, 0)


class Devices:
    """The devices of this machine, by the names that the settings give them (``cpu``, ``cuda:0``)."""

    def __init__(self, library: Library, nvml: Nvml) -> None:
        self._library = library
        self._nvml = nvml
        self._known: tuple[Device, ...] | None = None
        self._matched: frozenset[int] = frozenset()
        self._driver_worked = False
        self._seen = Seen()
        self._asked_at: datetime.datetime | None = None

    @property
    def versions(self) -> tuple[str, str | None]:
        """Of the binding, and of the NVIDIA driver where there is one."""
        return self._library.version, self._nvml.driver_version

    def seen(self) -> Seen:
        """The last look at the cards. Never waits, however long the driver takes."""
        asked_at = self._asked_at
        if asked_at is None or _seconds_since(asked_at) < LATE_S:
            return self._seen
        return replace(self._seen, reason=f"the NVIDIA driver has not answered since {asked_at:%H:%M:%S} UTC")

    def ggml_name(self, device: str, section: str) -> str:
        """ggml's name of a device. ``section`` of the settings asks for it.

        Raises:
            ModelLoadFailed: it is not there.
        """
        if device == "cpu":
            return "CPU"
        names = [known.name for known in self._all()]
        found = next((name for name in names if name.casefold() == device.replace(":", "").casefold()), None)
        if found is not None:
            return found
        seen = ", ".join(names)
        raise ModelLoadFailed(
            f'{section}.device = "{device}", but this llama-cpp-python sees only: {seen}. '
            f'Install a CUDA build of it, or set {section}.device = "cpu"'
        )

    def free_bytes(self, device: str) -> int | None:
        """Free memory of a device: NVML's word, ggml's where NVML is silent; None if nobody knows.

        Raises:
            ModelLoadFailed: it is a card that cannot be used at all.
        """
        if not device.startswith("cuda:"):
            return self._watch(device, 0, ()).free_bytes
        # ggml is asked first: it makes CUDA take its own part of the card, which NVML then counts as used.
        self._all()
        watched = self._watch(device, 0, self._look())
        if watched.fault is not None:
            raise ModelLoadFailed(f"{device} cannot be used: {watched.fault}; nvidia-smi tells more")
        return watched.free_bytes

    def sight(self, margins_bytes: Mapping[str, int]) -> Sight:
        """What is free on each device of ``margins_bytes``, and what is wrong with which card."""
        cards = self._look()
        devices = {
            device: self._watch(device, margin_bytes, cards) for device, margin_bytes in margins_bytes.items()
        }
        faults = {f"GPU {card.index} ({card.name or 'unknown'})": card.fault for card in cards if card.fault}
        if self._driver_worked and self._seen.reason is not None:
            faults[_DRIVER] = self._seen.reason
        return Sight(devices, faults)

    def free_on_gpu(self, ggml_device: str) -> int | None:
        """Free memory of a CUDA device by ggml's name; None for others, or if nobody knows."""
        index = _CUDA_NAME.fullmatch(ggml_device)
        return self._watch(f"cuda:{index[1]}", 0, self._look()).free_bytes if index else None

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

    def _all(self) -> tuple[Device, ...]:
        """ggml's devices as they were first seen: to ask again for the memory of a card that was lost
        meanwhile would end the process."""
        if self._known is None:
            self._known = self._library.devices()
        return self._known

    def _look(self) -> tuple[GpuReading, ...]:
        """The cards as they are now, those that have gone included."""
        # Others may be asking, too: whoever began counts.
        self._asked_at = self._asked_at or datetime.datetime.now(datetime.UTC)
        cards, reason = self._nvml.devices(), self._nvml.reason
        self._asked_at = None
        if reason is None:
            cards = with_vanished(self._seen.cards, cards)
            self._driver_worked = True
        cuda = match_devices(cuda_devices(self._known or ()), cards)
        self._matched |= cuda.keys()
        numbers = {id(card): f"cuda:{number}" for number, card in cuda.items()}
        names = tuple(numbers.get(id(card)) for card in cards)
        self._seen = Seen(datetime.datetime.now(datetime.UTC), cards, names, reason)
        return cards

    def _watch(self, device: str, margin_bytes: int, cards: Sequence[GpuReading]) -> Watched:
        if device == "cpu":
            return Watched(available_ram_bytes(), margin_bytes)
        if not device.startswith("cuda:"):
            return Watched(self._ggmls_word(device), margin_bytes)
        index = int(device.removeprefix("cuda:"))
        card = match_devices(cuda_devices(self._all()), cards).get(index)
        if card is not None and (card.fault or card.memory_free_bytes is not None):
            return Watched(card.memory_free_bytes, margin_bytes, card.fault)
        # Where NVML no longer knows the card it is not well, and ggml would not survive the question.
        gone = card is None and index in self._matched
        return Watched(None if gone else self._ggmls_word(device), margin_bytes)

    def _ggmls_word(self, device: str) -> int | None:
        name = device.replace(":", "")
        known = (known for known in self._library.devices() if known.name.casefold() == name)
        return next((found.memory_free_bytes for found in known), None)


def _seconds_since(at: datetime.datetime) -> float:
    return (datetime.datetime.now(datetime.UTC) - at).total_seconds()
