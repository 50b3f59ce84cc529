"""The NVIDIA driver and its cards, against what the build has code for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.doctor.check import Check, fault, ok, warning
from server.doctor.child import CUDA_BUILD, USUAL_ARCHITECTURES
from server.doctor.facts import Capability, SeenDevice
from server.gpu.nvml import GpuReading, Nvml
from server.gpu.placement import CudaDevice, match_devices

_MIB = 2**20
_LAST_BRANCH_WITH_PASCAL = 580
_TURING = Capability(7, 5)


@dataclass(frozen=True, slots=True)
class Driver:
    """What NVML says of itself and of the cards. ``reason`` is why there are no readings."""

    version: str | None
    cuda_version: str | None
    reason: str | None
    cards: tuple[GpuReading, ...] = ()


def look_at_driver(nvml: Nvml) -> Driver:
    """Ask NVML, once."""
    cards = nvml.devices()
    return Driver(nvml.driver_version, nvml.cuda_version, nvml.reason, cards)


def roles_by_card(
    wanted: Mapping[str, str], devices: Sequence[SeenDevice], cards: Sequence[GpuReading]
) -> dict[int, list[str]]:
    """Which configured models (role and ``cuda:N``) run on which of NVML's cards, by its index."""
    cuda = [
        CudaDevice(device.cuda_index, device.description, device.pci_bus_id, device.memory_total_bytes)
        for device in devices
        if device.cuda_index is not None
    ]
    found: dict[int, list[str]] = {}
    matched = match_devices(cuda, cards)
    for role, device in wanted.items():
        card = matched.get(int(device.removeprefix("cuda:")))
        if card is not None:
            found.setdefault(card.index, []).append(role)
    return found


def architectures_of(cards: Sequence[GpuReading]) -> str:
    """What to build for these cards, as CMAKE_CUDA_ARCHITECTURES wants it."""
    capabilities = {Capability.parse(card.compute_capability) for card in cards if card.compute_capability}
    ordered = sorted(capabilities, key=lambda capability: (capability.major, capability.minor))
    return ";".join(capability.architecture for capability in ordered) or USUAL_ARCHITECTURES


def judge_driver(driver: Driver, wanted: Mapping[str, str], cuda_runtime: str | None) -> Check:
    """Whether NVML answers, and the driver suits the build and what the settings want of it."""
    if driver.reason is not None:
        if not wanted:
            return ok("driver", f"{driver.reason}; the settings ask for no card")
        asked = ", ".join(f'{role}.device = "{device}"' for role, device in wanted.items())
        return fault(
            "driver",
            f"{driver.reason}, but {asked}",
            f"install the NVIDIA driver (a GTX 10xx needs branch {_LAST_BRANCH_WITH_PASCAL} or older); "
            "nvidia-smi must show the cards",
        )
    found = f"NVIDIA {driver.version or 'of unknown version'}, CUDA up to {driver.cuda_version or 'unknown'}"
    if _is_older(driver.cuda_version, cuda_runtime):
        return fault(
            "driver",
            f"{found}, but this build was made with CUDA {cuda_runtime}",
            "update the driver, or build llama-cpp-python with an older CUDA toolkit",
        )
    if _branch(driver) > _LAST_BRANCH_WITH_PASCAL and len(driver.cards) < len(set(wanted.values())):
        return warning(
            "driver",
            f"{found}; it shows {len(driver.cards)} of the {len(set(wanted.values()))} cards of the settings",
            f"drivers after branch {_LAST_BRANCH_WITH_PASCAL} have dropped Pascal: a GTX 10xx needs that one",
        )
    return ok("driver", found)


def judge_card(
    card: GpuReading,
    built_for: Sequence[Capability] | None,
    roles: Sequence[str] | None,
    architectures: str,
) -> Check:
    """Whether the build has code for a card. ``built_for`` None: it has none for any, or does not say.

    ``roles`` are the configured models on it, None where that is unknown; what a card without any cannot do
    is only a warning.
    """
    subject = str(card.index)
    if card.fault is not None:
        return fault(
            "card",
            f"{card.name or 'card'}: {card.fault}",
            "reboot; see dmesg for NVRM and Xid lines",
            subject=subject,
        )
    found = _description(card, roles)
    if card.compute_capability is None or built_for is None:
        return ok("card", found, subject=subject)
    capability = Capability.parse(card.compute_capability)
    has = " ".join(map(str, built_for)) or "nothing"
    remedy = _remedy(capability, architectures)
    if capability in built_for:
        return ok("card", found, subject=subject)
    if any(_runs_on(code, capability) for code in built_for):
        return ok("card", f"{found}; the build has code for {has}, which runs on it", subject=subject)
    if any(code.major < capability.major for code in built_for):
        return warning(
            "card",
            f"{found}; the build has code for {has} only: it runs if that can be compiled for this card, "
            "which takes minutes at the first start",
            remedy,
            subject=subject,
        )
    judged = warning if roles is not None and not roles else fault
    return judged(
        "card", f"{found}; the build has code for {has} only, not for this card", remedy, subject=subject
    )


def _runs_on(code: Capability, card: Capability) -> bool:
    """Machine code runs on later cards of the same major version."""
    return code.major == card.major and code.minor <= card.minor


def _description(card: GpuReading, roles: Sequence[str] | None) -> str:
    parts = [card.name or "a card without a name"]
    if card.compute_capability is not None:
        parts.append(f"compute capability {card.compute_capability}")
    if card.memory_free_bytes is not None and card.memory_total_bytes is not None:
        parts.append(f"{card.memory_free_bytes // _MIB} of {card.memory_total_bytes // _MIB} MiB free")
    if roles:
        parts.append(f"for the {' and the '.join(roles)}")
    return ", ".join(parts)


def _remedy(capability: Capability, architectures: str) -> str:
    build = CUDA_BUILD.format(architectures=architectures)
    if (capability.major, capability.minor) < (_TURING.major, _TURING.minor):
        return f"build it with CUDA 12 (CUDA 13 has dropped cards below {_TURING}): {build}"
    return f"build it for the cards here: {build}"


def _is_older(driver_cuda: str | None, cuda_runtime: str | None) -> bool:
    """Whether the driver cannot run programs of that CUDA: within a major version all can."""
    if driver_cuda is None or cuda_runtime is None:
        return False
    return Capability.parse(driver_cuda).major < Capability.parse(cuda_runtime).major


def _branch(driver: Driver) -> int:
    branch = (driver.version or "").partition(".")[0]
    return int(branch) if branch.isdecimal() else 0
