"""A program of its own: loads llama.cpp and prints what it says of its build, the devices and the plan.

``python -m server.doctor.native PARTS...`` with the settings on its standard input (see ``handover``). Each
part is printed, one JSON object a line, as soon as it is known, so that it counts even if the next one kills.
"""

import ctypes
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as binding

from server.catalogue import Catalogue, Entry
from server.doctor.facts import Build, Planned, SeenDevice
from server.doctor.handover import take_over
from server.domain.errors import ModelLoadFailed
from server.engine.llamacpp.devices import Device
from server.engine.llamacpp.library import Library
from server.gpu.nvml import Nvml, open_nvml
from server.service.cards import with_cuda_numbers
from server.service.crashes import Crashes, crash_folder
from server.service.devices import Devices
from server.service.placement import NoRoom, Placement, Placements
from server.service.risks import Risk, Risks

_CUDA_RUNTIME = re.compile(r"/\S*/libcudart\.so\S*")


def main(parts: Iterable[str]) -> None:
    """Print what is asked for: ``devices``, ``plan``, or just the build."""
    settings = take_over(sys.stdin.read())
    library, nvml = Library(), open_nvml()
    _tell(build=asdict(_build(library)))
    if "devices" in parts:
        _tell(devices=[_seen(device) for device in library.devices()])
    if "plan" in parts:
        settings, shared = with_cuda_numbers(settings, library, nvml), Shared(library, nvml)
        risks = Risks(Crashes(crash_folder(settings.cache_dir)), shared)
        _tell(plan=[asdict(planned) for planned in planned_models(Catalogue(settings), shared, risks)])


def _tell(**part: Any) -> None:
    print(json.dumps(part), flush=True)  # noqa: T201


def _build(library: Library) -> Build:
    info = binding.llama_print_system_info().decode("utf-8", "replace").strip(" |")
    return Build(info, library.offloads, _cuda_runtime())


def _cuda_runtime(maps: Path = Path("/proc/self/maps")) -> str | None:
    """The version of the CUDA runtime library in this process."""
    found = (
        _CUDA_RUNTIME.search(maps.read_text(encoding="utf-8", errors="replace")) if maps.exists() else None
    )
    if found is None:
        return None
    number = ctypes.c_int()
    if ctypes.CDLL(found[0]).cudaRuntimeGetVersion(ctypes.byref(number)):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _seen(device: Device) -> dict[str, Any]:
    return asdict(
        SeenDevice(
            device.name,
            device.description,
            device.pci_bus_id,
            device.memory_total_bytes,
            device.memory_free_bytes,
        )
    )


class Shared(Devices):
    """The devices as they are once those models are loaded that were planned before."""

    def __init__(self, library: Library, nvml: Nvml) -> None:
        super().__init__(library, nvml)
        self.taken_bytes: Counter[str] = Counter()

    def free_bytes(self, device: str) -> int | None:
        """What they leave."""
        free_bytes = super().free_bytes(device)
        return None if free_bytes is None else max(free_bytes - self.taken_bytes[device], 0)


def planned_models(catalogue: Catalogue, devices: Shared, risks: Risks) -> Iterator[Planned]:
    """One after the other, as the service loads them: what the first takes is not there for the second."""
    placements = _placements(catalogue, devices)
    for entry in catalogue.configured_here:
        planned = _plan(entry, catalogue, placements, risks)
        if planned.refusal is None:
            devices.taken_bytes[planned.device] += (planned.total_bytes or 0) - (planned.margin_bytes or 0)
            for device, taken_bytes in (planned.split or {}).items():
                if device != planned.device:
                    devices.taken_bytes[device] += taken_bytes
        yield planned


def _placements(catalogue: Catalogue, devices: Devices) -> Placements:
    if not any(entry.settings.is_split for entry in catalogue.configured_here):
        return Placements(devices)
    from server.service.rpc_servers import RpcServers  # noqa: PLC0415
    from server.service.splitting import SplitPlacements  # noqa: PLC0415

    return SplitPlacements(devices, RpcServers(None))


def _plan(entry: Entry, catalogue: Catalogue, placements: Placements, risks: Risks) -> Planned:
    role, model, device = entry.section, entry.name.display, entry.settings.device
    try:
        installed = catalogue.inspect(entry)
    except ModelLoadFailed as error:
        return Planned(role, model, device, refusal=str(error), unreadable=True)
    free_bytes = None
    try:
        free_bytes = placements.devices.free_bytes(device)
        placement = placements.place(installed, crash=risks.last(installed, Risk.LOAD))
    except NoRoom as error:
        total_bytes = None if free_bytes is None else free_bytes + error.missing_bytes
        return Planned(
            role, model, device, total_bytes=total_bytes, free_bytes=free_bytes, refusal=str(error)
        )
    except ModelLoadFailed as error:
        return Planned(role, model, device, refusal=str(error))
    return _placed(entry, placement, free_bytes)


def _placed(entry: Entry, placement: Placement, free_bytes: int | None) -> Planned:
    plan = placement.plan
    return Planned(
        entry.section,
        entry.name.display,
        entry.settings.device,
        context_tokens=placement.context_tokens,
        weights_bytes=plan.weights_bytes,
        kv_bytes=plan.kv_bytes,
        compute_bytes=plan.computing_bytes,
        margin_bytes=plan.margin_bytes,
        total_bytes=plan.total_bytes,
        free_bytes=free_bytes,
        reduced=str(placement.reduced) if placement.reduced else None,
        split=None if placement.split is None else placement.split.taken_bytes,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
