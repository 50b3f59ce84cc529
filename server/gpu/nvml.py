"""What the NVIDIA driver says about the cards. Its failures come out as values, never as exceptions."""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")

_PCI_BUS_ID = re.compile(r"(?:([0-9a-f]+):)?([0-9a-f]+):([0-9a-f]+)\.([0-9a-f]+)")

_CLOCK_REASONS: Mapping[int, str] = MappingProxyType(
    {
        0x001: "idle",
        0x002: "clocks set by hand",
        0x004: "power limit",
        0x008: "hardware slowdown: too hot, or too little power",
        0x010: "kept in step with other cards",
        0x020: "too hot: slowed by the driver",
        0x040: "too hot: slowed by the hardware",
        0x080: "power brake of the power supply",
        0x100: "clocks set for the display",
        0x200: "limit of the board",
        0x400: "voltage limit for reliability",
    }
)
"""NVML's bits for why clocks are below the maximum."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses a card. ``name`` is the kernel's short one; None: not readable from here.

    ``memory_bytes`` None: the driver does not tell, as in a virtual machine.
    """

    pid: int
    name: str | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One card at one moment. What the card or its driver does not tell is None.

    ``index`` counts as NVML and nvidia-smi do, by PCI bus. ``fault`` says why the card cannot be
    used at all, such as being lost. ``compute_capability`` is written as NVIDIA does, like ``7.5``.
    ``clock_reasons`` says in words why the clocks are below their maximum, ``idle`` included.
    """

    index: int
    uuid: str | None = None
    pci_bus_id: str | None = None
    name: str | None = None
    compute_capability: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    clock_mhz: int | None = None
    clock_max_mhz: int | None = None
    memory_clock_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    clock_reasons: tuple[str, ...] | None = None
    processes: tuple[GpuProcess, ...] | None = None
    fault: str | None = None


def normalise_pci_bus_id(bus_id: str) -> str:
    """The one spelling of a PCI bus id: ``0000:01:00.0``. Text of another form only becomes lower-case."""
    lowered = bus_id.strip().lower()
    parts = _PCI_BUS_ID.fullmatch(lowered)
    if parts is None:
        return lowered
    domain, bus, device, function = (int(part or "0", 16) for part in parts.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}"


class Nvml:
    """The driver's library, opened once for the life of the process. Any thread may call it."""

    def __init__(self, reason: str | None) -> None:
        self._lock = threading.Lock()
        self._open = reason is None
        self._reason = reason

    @property
    def available(self) -> bool:
        """Whether there is a driver to ask."""
        with self._lock:
            return self._open

    @property
    def reason(self) -> str | None:
        """Why there are no readings; None while there are."""
        with self._lock:
            return self._reason

    @property
    def driver_version(self) -> str | None:
        """The driver's version, like ``580.95.05``."""
        with self._lock:
            return _value(lambda: _text(pynvml.nvmlSystemGetDriverVersion())) if self._open else None

    @property
    def cuda_version(self) -> str | None:
        """The newest CUDA that the driver supports, like ``12.8``."""
        with self._lock:
            return _value(_cuda_version) if self._open else None

    def devices(self) -> tuple[GpuReading, ...]:
        """A fresh reading of each card; none where there is no driver, or where it fails (see ``reason``)."""
        with self._lock:
            if not self._open:
                return ()
            try:
                count = int(pynvml.nvmlDeviceGetCount())
            except pynvml.NVMLError as error:
                self._reason = _reason(error)
                return ()
            self._reason = None
            return tuple(_read_device(index) for index in range(count))

    def close(self) -> None:
        """Let go of the driver; may be called twice."""
        with self._lock:
            if self._open:
                self._open = False
                self._reason = "NVML is closed"
                _value(pynvml.nvmlShutdown)


def open_nvml() -> Nvml:
    """Open the driver's library. Without a driver the result is not ``available`` and says why."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Nvml(_reason(error))
    return Nvml(None)


def _reason(error: pynvml.NVMLError) -> str:
    if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return "no NVIDIA driver: libnvidia-ml.so.1 not found"
    if error.value == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return "the NVIDIA driver is installed but not loaded (nvidia-smi shows the same)"
    if error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "the NVIDIA driver was updated while its old version runs; reboot"
    return f"the NVIDIA driver fails: {error}"


def _read_device(index: int) -> GpuReading:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = _supported(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
        load = _supported(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
        return GpuReading(
            index=index,
            uuid=_supported(lambda: _text(pynvml.nvmlDeviceGetUUID(handle))),
            pci_bus_id=_supported(lambda: _bus_id(handle)),
            name=_supported(lambda: _text(pynvml.nvmlDeviceGetName(handle))),
            compute_capability=_supported(lambda: _compute_capability(handle)),
            memory_total_bytes=None if memory is None else int(memory.total),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_free_bytes=None if memory is None else int(memory.free),
            utilisation_percent=None if load is None else int(load.gpu),
            temperature_c=_supported(lambda: _temperature(handle)),
            power_w=_supported(lambda: int(pynvml.nvmlDeviceGetPowerUsage(handle)) / 1000),
            power_limit_w=_supported(lambda: int(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1000),
            clock_mhz=_clock(handle, pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_GRAPHICS),
            clock_max_mhz=_clock(handle, pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_GRAPHICS),
            memory_clock_mhz=_clock(handle, pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM),
            memory_clock_max_mhz=_clock(handle, pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_MEM),
            clock_reasons=_clock_reasons(handle),
            processes=_processes(handle),
        )
    except pynvml.NVMLError as error:
        return _faulty_reading(index, error)


def _faulty_reading(index: int, error: pynvml.NVMLError) -> GpuReading:
    """What little a faulty card still tells of itself, so that one knows which it is."""
    handle = _value(lambda: pynvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return GpuReading(index=index, fault=str(error))
    return GpuReading(
        index=index,
        uuid=_value(lambda: _text(pynvml.nvmlDeviceGetUUID(handle))),
        pci_bus_id=_value(lambda: _bus_id(handle)),
        name=_value(lambda: _text(pynvml.nvmlDeviceGetName(handle))),
        fault=str(error),
    )


def _supported(query: Callable[[], T]) -> T | None:
    """The query's answer, None where it fails; but a fault of the whole card is raised."""
    try:
        return query()
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED):
            raise
        return None
    except UnicodeDecodeError:
        return None


def _value(query: Callable[[], T]) -> T | None:
    try:
        return query()
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None


def _bus_id(handle: Any) -> str:
    return normalise_pci_bus_id(_text(pynvml.nvmlDeviceGetPciInfo(handle).busId))


def _compute_capability(handle: Any) -> str:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return f"{major}.{minor}"


def _cuda_version() -> str:
    # 12080 is 12.8
    number = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    return f"{number // 1000}.{number % 1000 // 10}"


def _temperature(handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))


def _clock(handle: Any, query: Callable[[Any, int], Any], which: int) -> int | None:
    return _supported(lambda: int(query(handle, which)))


def _clock_reasons(handle: Any) -> tuple[str, ...] | None:
    bits = _supported(lambda: int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
    if bits is None:
        # Drivers before 535 know only the older name.
        bits = _supported(lambda: int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
    if bits is None:
        return None
    known = [words for bit, words in _CLOCK_REASONS.items() if bits & bit]
    unknown = bits & ~sum(_CLOCK_REASONS)
    return (*known, f"unknown: {unknown:#x}") if unknown else tuple(known)


def _processes(handle: Any) -> tuple[GpuProcess, ...] | None:
    """Whoever computes or draws, the largest first; None where neither list is to be had."""
    lists = (
        _supported(lambda: list(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))),
        _supported(lambda: list(pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle))),
    )
    if lists == (None, None):
        return None
    # Who does both is in both lists, each time with all that it has.
    found = {int(one.pid): one.usedGpuMemory for listed in lists for one in listed or ()}
    processes = [
        GpuProcess(pid, _process_name(pid), None if memory is None else int(memory))
        for pid, memory in found.items()
    ]
    return tuple(sorted(processes, key=lambda one: (-(one.memory_bytes or 0), one.pid)))


def _process_name(pid: int) -> str | None:
    """Only the short name: the whole command line may hold what is nobody's business."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").rstrip("\n") or None
    except OSError:
        return None


def _text(value: str | bytes) -> str:
    # releases of the bindings differ in which of the two they return
    return value if isinstance(value, str) else value.decode()
