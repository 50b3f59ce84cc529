"""What the child processes find out about llama.cpp. Plain values, for they travel as JSON."""

import re
from dataclasses import dataclass

_ARCHITECTURES = re.compile(r"\bARCHS = ([0-9,]+)")
_BACKEND = re.compile(r"(\w+) : ")
_FEATURE = re.compile(r"(\w+) = (\S+)")


@dataclass(frozen=True, slots=True)
class Capability:
    """A CUDA compute capability, of a card or of code that was built for it."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> "Capability":
        """Read ``7.5``."""
        major, _, minor = text.partition(".")
        return cls(int(major), int(minor))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def architecture(self) -> str:
        """As CMAKE_CUDA_ARCHITECTURES writes it: ``75``."""
        return f"{self.major}{self.minor}"


@dataclass(frozen=True, slots=True)
class Build:
    """What llama.cpp says of how it was built. ``cuda_runtime``: the version of the CUDA library that it
    loaded, like ``12.4``; None where there is none, or it is a part of the build."""

    system_info: str
    offloads: bool
    cuda_runtime: str | None = None

    @property
    def features(self) -> dict[str, dict[str, str]]:
        """Its flags with their values, by backend: ``{"CPU": {"AVX2": "1"}, ...}``."""
        _, *parts = _BACKEND.split(self.system_info)
        return {
            backend: dict(_FEATURE.findall(flags))
            for backend, flags in zip(parts[::2], parts[1::2], strict=True)
        }

    @property
    def cuda_capabilities(self) -> tuple[Capability, ...] | None:
        """What it has CUDA code for; None where it does not say."""
        found = _ARCHITECTURES.search(self.system_info)
        if found is None:
            return None
        # 750 is 7.5
        numbers = sorted(int(number) // 10 for number in found[1].split(",") if number)
        return tuple(Capability(*divmod(number, 10)) for number in numbers)


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """A device that ggml can put a model on, in its own numbering (``CUDA0``, ...)."""

    name: str
    description: str
    pci_bus_id: str | None
    memory_total_bytes: int
    memory_free_bytes: int

    @property
    def cuda_index(self) -> int | None:
        """CUDA's number of it; None for what is no CUDA device."""
        number = self.name.removeprefix("CUDA")
        return int(number) if number != self.name and number.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Planned:
    """What a configured model would take of its device.

    Bytes that nobody knows are None; ``free_bytes`` is what the models planned before leave. ``refusal`` says
    why it has no place, ``unreadable`` that there is no file to plan with. ``running``: a service runs
    already, so nothing is planned, and ``loaded`` says whether it has this model; None: it does not tell.
    """

    role: str
    model: str
    device: str
    context_tokens: int | None = None
    weights_bytes: int | None = None
    kv_bytes: int | None = None
    compute_bytes: int | None = None
    margin_bytes: int | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    refusal: str | None = None
    reduced: str | None = None
    """What it would have to do without, and why."""
    split: dict[str, int] | None = None
    """Bytes that it takes of each device, of a model that several share."""
    unreadable: bool = False
    running: bool = False
    loaded: bool | None = False


@dataclass(frozen=True, slots=True)
class Native:
    """As far as the child came. ``devices`` and ``plan`` None: it was not asked, or did not get there."""

    build: Build | None = None
    devices: tuple[SeenDevice, ...] | None = None
    plan: tuple[Planned, ...] | None = None
