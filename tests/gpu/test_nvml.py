"""The readings, through the real bindings, from a library that is a fake (see fake_nvml.c)."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from server.gpu.nvml import GpuProcess, GpuReading, normalise_pci_bus_id, open_nvml
from tests.gpu import fake_nvml as fake
from tests.gpu.fake_nvml import FakeNvml

MIB = 2**20

LOOK = """
import dataclasses, json
from server.gpu.nvml import open_nvml
nvml = open_nvml()
print(json.dumps({
    "available": nvml.available,
    "driver_version": nvml.driver_version,
    "cuda_version": nvml.cuda_version,
    "devices": [dataclasses.asdict(reading) for reading in nvml.devices()],
    "reason": nvml.reason,
}))
nvml.close()
nvml.close()
assert not nvml.available
assert nvml.devices() == ()
assert nvml.driver_version is None
assert nvml.cuda_version is None
assert nvml.reason
"""


@dataclass(frozen=True, slots=True)
class Seen:
    available: bool
    driver_version: str | None
    cuda_version: str | None
    devices: tuple[GpuReading, ...]
    reason: str | None


def look(fake_nvml: FakeNvml, *orders: str) -> Seen:
    fake_nvml.order(*orders)
    seen: dict[str, Any] = json.loads(fake_nvml.run(LOOK))
    return Seen(**{**seen, "devices": tuple(map(reading_of, seen["devices"]))})


def reading_of(told: dict[str, Any]) -> GpuReading:
    """From JSON, which has only lists."""
    reasons, processes = told["clock_reasons"], told["processes"]
    return replace(
        GpuReading(**told),
        clock_reasons=None if reasons is None else tuple(reasons),
        processes=None if processes is None else tuple(GpuProcess(**one) for one in processes),
    )


BIG = GpuReading(
    index=0,
    uuid="GPU-20600000-0000-0000-0000-000000000001",
    pci_bus_id="0000:01:00.0",
    name="NVIDIA GeForce RTX 2060 SUPER",
    compute_capability="7.5",
    memory_total_bytes=8192 * MIB,
    memory_used_bytes=342 * MIB,
    memory_free_bytes=7850 * MIB,
    utilisation_percent=17,
    temperature_c=41,
    power_w=38.25,
    power_limit_w=175.0,
    clock_mhz=300,
    clock_max_mhz=2100,
    memory_clock_mhz=405,
    memory_clock_max_mhz=7001,
    clock_reasons=("idle",),
    processes=(),
)
SMALL = GpuReading(
    index=1,
    uuid="GPU-10500000-0000-0000-0000-000000000002",
    pci_bus_id="0000:0a:00.0",
    name="NVIDIA GeForce GTX 1050",
    compute_capability="6.1",
    memory_total_bytes=2048 * MIB,
    memory_used_bytes=5 * MIB,
    memory_free_bytes=2043 * MIB,
    utilisation_percent=17,
    temperature_c=41,
    power_w=38.25,
    power_limit_w=75.0,
    clock_mhz=300,
    clock_max_mhz=2100,
    memory_clock_mhz=405,
    memory_clock_max_mhz=7001,
    clock_reasons=("idle",),
    processes=(),
)


def test_both_cards_are_read(fake_nvml: FakeNvml) -> None:
    assert look(fake_nvml) == Seen(
        available=True,
        driver_version="580.95.05",
        cuda_version="13.0",
        devices=(BIG, SMALL),
        reason=None,
    )


def test_memory_in_use_is_read(fake_nvml: FakeNvml) -> None:
    _, small = look(fake_nvml, "used 1 1603").devices

    assert small == replace(SMALL, memory_used_bytes=1603 * MIB, memory_free_bytes=445 * MIB)


@pytest.mark.parametrize(
    ("function", "unknown"),
    [
        ("nvmlDeviceGetUUID", ["uuid"]),
        ("nvmlDeviceGetName", ["name"]),
        ("nvmlDeviceGetPciInfo", ["pci_bus_id"]),
        ("nvmlDeviceGetCudaComputeCapability", ["compute_capability"]),
        ("nvmlDeviceGetMemoryInfo", ["memory_total_bytes", "memory_used_bytes", "memory_free_bytes"]),
        ("nvmlDeviceGetUtilizationRates", ["utilisation_percent"]),
        ("nvmlDeviceGetTemperature", ["temperature_c"]),
        ("nvmlDeviceGetPowerUsage", ["power_w"]),
        ("nvmlDeviceGetEnforcedPowerLimit", ["power_limit_w"]),
        ("nvmlDeviceGetClockInfo", ["clock_mhz", "memory_clock_mhz"]),
        ("nvmlDeviceGetMaxClockInfo", ["clock_max_mhz", "memory_clock_max_mhz"]),
        # The other list, or the older name, says it then.
        ("nvmlDeviceGetComputeRunningProcesses", []),
        ("nvmlDeviceGetCurrentClocksEventReasons", []),
    ],
)
def test_a_query_that_fails_leaves_only_its_own_answer_open(
    fake_nvml: FakeNvml, function: str, unknown: list[str]
) -> None:
    seen = look(fake_nvml, f"fail {function} 1 {fake.NOT_SUPPORTED}")

    nothing: dict[str, Any] = dict.fromkeys(unknown)
    assert seen.devices == (BIG, replace(SMALL, **nothing))


def test_processes_are_listed_with_their_memory(fake_nvml: FakeNvml) -> None:
    ours, gone = os.getpid(), 2**22 + 1
    orders = (f"process 0 {ours} 4000", f"process 0 {gone} 6000", "process 1 1 -1", "used 0 10")
    big, small = look(fake_nvml, *orders).devices

    name = Path("/proc/self/comm").read_text().strip()
    processes = (GpuProcess(gone, None, 6000 * MIB), GpuProcess(ours, name, 4000 * MIB))
    assert (big.processes, big.memory_used_bytes) == (processes, 10_010 * MIB)
    assert [(one.pid, one.memory_bytes) for one in small.processes or ()] == [(1, None)]


def test_where_no_list_of_processes_is_to_be_had_they_are_unknown(fake_nvml: FakeNvml) -> None:
    kinds = ("Compute", "Graphics")
    orders = [f"fail nvmlDeviceGet{kind}RunningProcesses 1 {fake.NOT_SUPPORTED}" for kind in kinds]

    assert look(fake_nvml, *orders).devices == (BIG, replace(SMALL, processes=None))


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, ()),
        (0x4 | 0x40, ("power limit", "too hot: slowed by the hardware")),
        (0x1 | 0x8000, ("idle", "unknown: 0x8000")),
    ],
)
def test_why_clocks_are_low_is_told_in_words(fake_nvml: FakeNvml, bits: int, words: tuple[str, ...]) -> None:
    big, _ = look(fake_nvml, f"reasons 0 {bits}").devices

    assert big.clock_reasons == words


def test_a_driver_may_know_neither_name_of_the_reasons(fake_nvml: FakeNvml) -> None:
    names = ("EventReasons", "ThrottleReasons")
    orders = [f"fail nvmlDeviceGetCurrentClocks{name} 0 {fake.FUNCTION_NOT_FOUND}" for name in names]

    assert look(fake_nvml, *orders).devices == (replace(BIG, clock_reasons=None), SMALL)


def test_a_card_that_vanishes_is_no_longer_listed(fake_nvml: FakeNvml) -> None:
    assert look(fake_nvml, "cards 1").devices == (BIG,)


def test_a_lost_card_does_not_take_the_other_with_it(fake_nvml: FakeNvml) -> None:
    seen = look(fake_nvml, f"fail * 0 {fake.GPU_IS_LOST}")

    assert seen.devices == (GpuReading(index=0, fault="GPU is lost"), SMALL)


def test_a_card_lost_halfway_still_says_who_it_is(fake_nvml: FakeNvml) -> None:
    seen = look(fake_nvml, f"fail nvmlDeviceGetMemoryInfo 0 {fake.GPU_IS_LOST}")

    lost = GpuReading(index=0, uuid=BIG.uuid, pci_bus_id=BIG.pci_bus_id, name=BIG.name, fault="GPU is lost")
    assert seen.devices == (lost, SMALL)


def test_an_error_that_the_bindings_do_not_know_is_a_fault_too(fake_nvml: FakeNvml) -> None:
    order = f"fail nvmlDeviceGetHandleByIndex 1 {fake.UNKNOWN_TO_THE_BINDINGS}"

    _, small = look(fake_nvml, order).devices

    assert small == GpuReading(index=1, fault="an error that only the driver knows")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            fake.DRIVER_NOT_LOADED,
            "the NVIDIA driver is installed but not loaded (nvidia-smi shows the same)",
        ),
        (fake.VERSION_MISMATCH, "the NVIDIA driver was updated while its old version runs; reboot"),
        (
            fake.UNKNOWN_TO_THE_BINDINGS,
            "the NVIDIA driver fails: an error that only the driver knows",
        ),
    ],
)
def test_a_driver_that_does_not_start_says_why(fake_nvml: FakeNvml, code: int, reason: str) -> None:
    seen = look(fake_nvml, f"fail nvmlInitWithFlags * {code}")

    assert seen == Seen(available=False, driver_version=None, cuda_version=None, devices=(), reason=reason)


def test_a_driver_that_cannot_count_says_why(fake_nvml: FakeNvml) -> None:
    seen = look(fake_nvml, f"fail nvmlDeviceGetCount * {fake.UNKNOWN_TO_THE_BINDINGS}")

    assert seen.available
    assert seen.devices == ()
    assert seen.reason == "the NVIDIA driver fails: an error that only the driver knows"


def test_a_driver_may_keep_its_version_and_its_end_to_itself(fake_nvml: FakeNvml) -> None:
    seen = look(
        fake_nvml,
        f"fail nvmlSystemGetDriverVersion * {fake.NOT_SUPPORTED}",
        f"fail nvmlSystemGetCudaDriverVersion * {fake.NOT_SUPPORTED}",
        f"fail nvmlShutdown * {fake.UNKNOWN_TO_THE_BINDINGS}",
    )

    assert (seen.driver_version, seen.cuda_version) == (None, None)
    assert seen.devices == (BIG, SMALL)


def test_without_a_driver_there_is_a_reason(tmp_path: Path) -> None:
    # a library that cannot be loaded hides the real one, should this machine have one
    (tmp_path / fake.LIBRARY_NAME).write_text("no library")
    seen = look(FakeNvml(tmp_path, tmp_path / "script"))

    reason = "no NVIDIA driver: libnvidia-ml.so.1 not found"
    assert seen == Seen(available=False, driver_version=None, cuda_version=None, devices=(), reason=reason)


def test_threads_may_read_and_close_at_once(fake_nvml: FakeNvml) -> None:
    program = """
from concurrent.futures import ThreadPoolExecutor
from server.gpu.nvml import open_nvml
nvml = open_nvml()
with ThreadPoolExecutor(8) as pool:
    readings = [pool.submit(nvml.devices) for _ in range(200)]
    pool.submit(nvml.close)
    readings += [pool.submit(nvml.devices) for _ in range(50)]
print(sorted({len(reading.result()) for reading in readings}))
"""
    assert fake_nvml.run(program).strip() in ("[0, 2]", "[2]")


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("00000000:01:00.0", "0000:01:00.0"),
        ("0000:0A:00.0", "0000:0a:00.0"),
        ("00010000:65:00.0", "10000:65:00.0"),
        (" 0000:01:00.0\n", "0000:01:00.0"),
        ("Bus 1", "bus 1"),
    ],
)
def test_a_pci_bus_id_has_one_spelling(written: str, normal: str) -> None:
    assert normalise_pci_bus_id(written) == normal


@pytest.mark.gpu
def test_a_real_card_is_read() -> None:
    nvml = open_nvml()
    if not nvml.available:
        pytest.skip(str(nvml.reason))

    for reading in nvml.devices():
        assert reading.fault is None
        assert reading.name
        assert reading.compute_capability
        assert reading.uuid
        assert reading.pci_bus_id == normalise_pci_bus_id(reading.pci_bus_id or "")
        assert reading.memory_total_bytes
        assert reading.memory_free_bytes is not None
        assert reading.memory_free_bytes <= reading.memory_total_bytes
        assert reading.clock_mhz
        assert reading.clock_max_mhz
        assert reading.clock_reasons is not None
        assert reading.processes is not None
    assert nvml.driver_version
    assert nvml.cuda_version
    nvml.close()
