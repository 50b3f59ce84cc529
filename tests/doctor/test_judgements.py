"""What is made of each sight, without looking at anything."""

import datetime
import errno
from pathlib import Path
from typing import Any

import pytest

from server.config import load_settings
from server.doctor.access import judge_access
from server.doctor.binding import judge_binding, judge_build, judge_decoding, judge_offload
from server.doctor.cards import Driver, architectures_of, judge_card, judge_driver, roles_by_card
from server.doctor.check import Check, Status, fault, ok, warning, worst
from server.doctor.child import Ended
from server.doctor.crashes import judge_crashes
from server.doctor.facts import Build, Capability, Native, Planned, SeenDevice
from server.doctor.folders import Folder, judge_cache, judge_models_dir
from server.doctor.plan import judge_plan, wanted_cards
from server.doctor.ports import Port, Running, Tenant, judge_port
from server.doctor.units import Unit, judge_ollama, judge_unit, parse_unit
from server.gpu.nvml import GpuReading
from server.service.crashes import Crash

OK, WARNING, FAULT = Status.OK, Status.WARNING, Status.FAULT
MIB = 2**20

CPU_INFO = "CPU : AVX = 1 | AVX2 = 1 | FMA = 1 | LLAMAFILE = 1 | "
CUDA_INFO = f"CUDA : ARCHS = 610,750 | USE_GRAPHS = 1 | {CPU_INFO}"
CUDA_BUILD = Build(CUDA_INFO, offloads=True, cuda_runtime="12.8")
CPU_BUILD = Build(CPU_INFO, offloads=False)
FLAGS = frozenset({"avx", "avx2", "fma", "f16c", "bmi2"})

BIG, SMALL = "0000:01:00.0", "0000:0a:00.0"
RTX = GpuReading(0, pci_bus_id=BIG, name="RTX 2060 SUPER", compute_capability="7.5")
GTX = GpuReading(1, pci_bus_id=SMALL, name="GTX 1050", compute_capability="6.1")
CUDA0 = SeenDevice("CUDA0", "RTX 2060 SUPER", BIG, 8192 * MIB, 8000 * MIB)
CUDA1 = SeenDevice("CUDA1", "GTX 1050", SMALL, 2048 * MIB, 2000 * MIB)
BOTH = {"generator": "cuda:0", "helper": "cuda:1"}


def says(check: Check, status: Status, *words: str) -> None:
    """The status is this one, all words are told, and whatever is not well has a remedy."""
    assert check.status is status, check
    assert all(word in f"{check.found} {check.remedy}" for word in words), check
    assert (check.remedy is None) is (status is OK)


def test_the_worst_counts() -> None:
    assert worst([]) is OK
    assert worst([warning("a", "b", "c"), ok("a", "b")]) is WARNING
    assert worst([warning("a", "b", "c"), fault("a", "b", "c"), ok("a", "b")]) is FAULT


def test_a_builds_features_are_told_by_backend() -> None:
    assert CUDA_BUILD.features == {
        "CUDA": {"ARCHS": "610,750", "USE_GRAPHS": "1"},
        "CPU": {"AVX": "1", "AVX2": "1", "FMA": "1", "LLAMAFILE": "1"},
    }
    assert CUDA_BUILD.cuda_capabilities == (Capability(6, 1), Capability(7, 5))
    assert Build("CUDA : ARCHS = 1200,890 | ", offloads=True).cuda_capabilities == (
        Capability(8, 9),
        Capability(12, 0),
    )
    assert CPU_BUILD.cuda_capabilities is None
    assert Build("", offloads=False).features == {}


LOADED = Native(CPU_BUILD)
NO_MODULE = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'llama_cpp'"
NO_CUDART = "RuntimeError: libcudart.so.12: cannot open shared object file: No such file or directory"
NO_DRIVER = "RuntimeError: libcuda.so.1: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("installed", "native", "ended", "status", "words"),
    [
        ("0.3.36", LOADED, Ended(0), OK, ["0.3.36"]),
        (None, Native(), Ended(1, stderr=NO_MODULE), FAULT, ["not installed", "make install"]),
        ("0.3.35", LOADED, Ended(0), FAULT, ["0.3.35", "made for 0.3.36", "make install"]),
        ("0.3.36", Native(), Ended(-4), FAULT, ["SIGILL", "lacks an instruction", "GGML_NATIVE=OFF"]),
        ("0.3.36", Native(), Ended(1, stderr=NO_CUDART), FAULT, ["libcudart.so.12", "CUDA toolkit"]),
        ("0.3.36", Native(), Ended(1, stderr=NO_DRIVER), FAULT, ["libcuda.so.1", "NVIDIA driver"]),
        ("0.3.36", Native(), Ended(1, stderr=""), FAULT, ["said nothing", "make rebuild-binding"]),
        ("0.3.36", LOADED, Ended(-6, stderr="x\nCUDA error"), FAULT, ["looking at the devices", "SIGABRT"]),
        ("0.3.36", Native(), Ended(None), FAULT, ["does not come to an end"]),
    ],
)
def test_the_binding(
    installed: str | None, native: Native, ended: Ended, status: Status, words: list[str]
) -> None:
    says(judge_binding(installed, "0.3.36", native, ended), status, *words)


@pytest.mark.parametrize(
    ("info", "flags", "status", "words"),
    [
        (CPU_INFO, FLAGS, OK, ["CPU: AVX AVX2 FMA LLAMAFILE"]),
        (CUDA_INFO, FLAGS, OK, ["CUDA: ARCHS=610,750 USE_GRAPHS; CPU: AVX"]),
        ("CPU : AVX512 = 1 | AVX2 = 1 | ", FLAGS, FAULT, ["no AVX512", "GGML_NATIVE=OFF"]),
        ("CPU : AVX2 = 1 | AMX_INT8 = 1 | ", FLAGS | {"amx_int8"}, WARNING, ["GGML_NATIVE=ON", "AMX"]),
        ("CPU : AVX = 1 | ", FLAGS, WARNING, ["does not use it", "rebuild"]),
        ("CPU : NEON = 1 | DOTPROD = 1 | ", frozenset[str](), OK, ["NEON DOTPROD"]),
        ("CPU : AVX = 1 | ", frozenset({"avx"}), OK, ["AVX"]),
    ],
)
def test_the_build_against_the_cpu(
    info: str, flags: frozenset[str], status: Status, words: list[str]
) -> None:
    says(judge_build(Build(info, offloads=False), flags), status, *words)


@pytest.mark.parametrize(
    ("build", "devices", "wanted", "status", "words"),
    [
        (CPU_BUILD, (), {}, OK, ["no GPU support"]),
        (
            CPU_BUILD,
            (),
            BOTH,
            FAULT,
            [
                'generator.device = "cuda:0"',
                'ARCHITECTURES="61;75"',
                'set generator.device = "cpu" and helper',
            ],
        ),
        (CUDA_BUILD, (CUDA0, CUDA1), BOTH, OK, ["cuda:0 RTX 2060 SUPER, cuda:1 GTX 1050"]),
        (CUDA_BUILD, (CUDA0,), BOTH, FAULT, ['helper.device = "cuda:1"', "sees cuda:0", "CUDA_VISIBLE"]),
        (CUDA_BUILD, (), BOTH, FAULT, ["sees no card"]),
        (CUDA_BUILD, (), {}, OK, ["no card"]),
        (CUDA_BUILD, None, BOTH, OK, ["the running service has the cards"]),
    ],
)
def test_offload(
    build: Build,
    devices: tuple[SeenDevice, ...] | None,
    wanted: dict[str, str],
    status: Status,
    words: list[str],
) -> None:
    says(judge_offload(build, devices, wanted, "61;75"), status, *words)


@pytest.mark.parametrize(
    ("ended", "status", "words"),
    [
        (Ended(0, "0.123\n"), OK, ["tiny.gguf", "0.123 s"]),
        (Ended(-11), FAULT, ["SIGSEGV", "GGML_NATIVE=ON", "AMX", "make rebuild-binding"]),
        (Ended(-4), FAULT, ["SIGILL", "-DGGML_AVX2=OFF"]),
        (Ended(-9), FAULT, ["SIGKILL", "out of memory"]),
        (
            Ended(
                -6, stderr="CUDA error: no kernel image is available for execution on the device\n  at ..."
            ),
            FAULT,
            ["no code for this card", "make cuda"],
        ),
        (Ended(-6, stderr="CUDA error: out of memory"), FAULT, ["the card is out of memory", "nvidia-smi"]),
        (Ended(-34), FAULT, ["dies of SIGRTMIN"]),
        (Ended(-50), FAULT, ["dies of signal 50"]),
        (Ended(1, stderr="a\nit computes numbers that are none (NaN)"), FAULT, ["numbers that are none"]),
        (Ended(None), FAULT, ["does not come to an end"]),
    ],
)
def test_decoding(ended: Ended, status: Status, words: list[str]) -> None:
    check = judge_decoding(Path("tiny.gguf"), "CPU", ended)
    says(check, status, *words)
    assert check.subject == "CPU"


DRIVER = Driver("580.95.05", "13.0", None, (RTX, GTX))


@pytest.mark.parametrize(
    ("driver", "wanted", "runtime", "status", "words"),
    [
        (DRIVER, BOTH, "12.8", OK, ["580.95.05", "CUDA up to 13.0"]),
        (DRIVER, BOTH, None, OK, []),
        (Driver(None, None, None, (RTX,)), {}, "12.8", OK, ["unknown"]),
        (Driver(None, None, "no NVIDIA driver"), {}, None, OK, ["no NVIDIA driver; the settings"]),
        (Driver(None, None, "no NVIDIA driver"), BOTH, None, FAULT, ['helper.device = "cuda:1"', "580"]),
        (Driver("550.1", "12.4", None, (RTX, GTX)), BOTH, "13.0", FAULT, ["CUDA 13.0", "update the driver"]),
        (Driver("550.1", "12.4", None, (RTX, GTX)), BOTH, "12.9", OK, []),
        (Driver("590.44", "13.1", None, (RTX,)), BOTH, "12.8", WARNING, ["1 of the 2", "dropped Pascal"]),
        (Driver("590.44", "13.1", None, (RTX,)), {"generator": "cuda:0"}, "12.8", OK, []),
    ],
)
def test_the_driver(
    driver: Driver, wanted: dict[str, str], runtime: str | None, status: Status, words: list[str]
) -> None:
    says(judge_driver(driver, wanted, runtime), status, *words)


def code_for(*capabilities: str) -> tuple[Capability, ...]:
    return tuple(map(Capability.parse, capabilities))


@pytest.mark.parametrize(
    ("card", "built_for", "roles", "status", "words"),
    [
        (RTX, code_for("6.1", "7.5"), ["generator"], OK, ["RTX 2060", "7.5", "for the generator"]),
        (GTX, code_for("6.1", "7.5"), ["helper"], OK, ["6.1"]),
        (GTX, code_for("6.0"), ["helper"], OK, ["code for 6.0, which runs on it"]),
        (RTX, code_for("6.1"), ["generator"], WARNING, ["code for 6.1 only", "minutes", "61;75"]),
        (GTX, code_for("7.5", "8.6"), ["helper"], FAULT, ["not for this card", "CUDA 12", "61;75"]),
        (GTX, code_for("7.5", "8.6"), [], WARNING, ["not for this card"]),
        (GTX, code_for("7.5", "8.6"), None, FAULT, ["not for this card"]),
        (RTX, code_for("8.6"), ["generator"], FAULT, ["build it for the cards here"]),
        (RTX, None, ["generator"], OK, ["RTX 2060"]),
        (GpuReading(0, name="X", fault="GPU is lost"), None, None, FAULT, ["X: GPU is lost", "reboot"]),
        (
            GpuReading(0, memory_total_bytes=8192 * MIB, memory_free_bytes=342 * MIB),
            code_for("7.5"),
            ["generator", "helper"],
            OK,
            ["342 of 8192 MiB free", "for the generator and the helper"],
        ),
    ],
)
def test_a_card_against_the_build(
    card: GpuReading,
    built_for: tuple[Capability, ...] | None,
    roles: list[str] | None,
    status: Status,
    words: list[str],
) -> None:
    says(judge_card(card, built_for, roles, "61;75"), status, *words)


def test_the_architectures_of_the_cards_are_what_to_build() -> None:
    modern = GpuReading(2, compute_capability="12.0")
    assert architectures_of([RTX, modern, GTX, RTX]) == "61;75;120"
    assert architectures_of([GpuReading(0)]) == "61;75"


def test_models_find_their_cards_by_bus_though_cuda_and_nvml_count_differently() -> None:
    swapped = (GpuReading(0, pci_bus_id=SMALL), GpuReading(1, pci_bus_id=BIG))
    cpu = SeenDevice("CPU", "CPU", None, 0, 0)
    assert roles_by_card(BOTH, (CUDA0, CUDA1, cpu), swapped) == {1: ["generator"], 0: ["helper"]}
    assert roles_by_card(BOTH, (cpu,), swapped) == {}


NEEDS = "model 'x' needs 9 MiB on cuda:0 (weights 4) but 2 MiB are free; lower generator.context"
NO_DEVICE = 'generator.device = "cuda:0", but this llama-cpp-python sees only: CPU. Install a CUDA build'


@pytest.mark.parametrize(
    ("planned", "status", "words"),
    [
        (
            Planned("helper", "x", "cpu", total_bytes=3 * MIB, free_bytes=9 * MIB),
            OK,
            ["3 MiB of 9 MiB free"],
        ),
        (Planned("helper", "x", "cpu", total_bytes=3 * MIB), OK, ["unknown free memory"]),
        (Planned("generator", "x", "cuda:0", refusal=NEEDS), FAULT, ["2 MiB are free lower generator"]),
        (Planned("generator", "x", "cuda:0", refusal=NO_DEVICE), FAULT, ["only: CPU install a CUDA build"]),
        (Planned("generator", "x", "cuda:0", refusal="no"), FAULT, ["no see generator.device"]),
        (Planned("generator", "x", "cpu", refusal="gone", unreadable=True), WARNING, ["no file"]),
        (Planned("generator", "x", "cpu", running=True, loaded=True), OK, ["is loaded on cpu"]),
        (Planned("generator", "x", "cpu", running=True), OK, ["is not loaded"]),
        (Planned("generator", "x", "cpu", running=True, loaded=None), OK, ["wants a key"]),
    ],
)
def test_the_plan(planned: Planned, status: Status, words: list[str]) -> None:
    says(judge_plan(planned), status, *words)


@pytest.mark.parametrize(
    ("port", "status", "words"),
    [
        (Port("127.0.0.1", 8512, Tenant.NOBODY), OK, ["free"]),
        (Port("127.0.0.1", 0, Tenant.NOBODY), OK, ["will be taken"]),
        (Port("127.0.0.1", 8512, Tenant.THIS_SERVICE, Running()), OK, ["an llm-optimizer runs here"]),
        (Port("127.0.0.1", 11434, Tenant.OLLAMA), FAULT, ["an Ollama runs here", "disable --now ollama"]),
        (Port("::1", 8512, Tenant.ANOTHER), FAULT, ["another program", "ss -ltnp 'sport = :8512'"]),
        (Port("h", 80, Tenant.NOBODY, error=OSError(errno.EACCES, "no")), FAULT, ["1024"]),
        (
            Port("h", 8512, Tenant.NOBODY, error=OSError(errno.EADDRNOTAVAIL, "no")),
            FAULT,
            ["no such address"],
        ),
        (
            Port("h", 8512, Tenant.NOBODY, error=OSError(-2, "Name unknown")),
            FAULT,
            ["Name unknown", "listen"],
        ),
    ],
)
def test_a_port(port: Port, status: Status, words: list[str]) -> None:
    says(judge_port(port), status, *words)


@pytest.mark.parametrize(
    ("unit", "status", "words"),
    [
        (None, OK, ["no systemd"]),
        (Unit(load="not-found", active="inactive", sub="dead"), OK, ["not installed"]),
        (Unit("loaded", "active", "running", "enabled"), OK, ["active (running), enabled"]),
        (Unit("loaded", "active", "running", "disabled"), WARNING, ["systemctl enable llm"]),
        (Unit("loaded", "active", "running", "enabled", restarts=7), WARNING, ["restarted 7 times"]),
        (Unit("loaded", "inactive", "dead", "enabled"), WARNING, ["enable --now"]),
        (Unit("loaded", "failed", "failed", "enabled", "core-dump"), FAULT, ["core-dump", "journalctl"]),
        (Unit("loaded", "activating", "auto-restart", "enabled", "exit-code"), FAULT, ["journalctl"]),
        (Unit("masked", "inactive", "dead", "masked"), FAULT, ["masked", "unmask"]),
    ],
)
def test_the_unit(unit: Unit | None, status: Status, words: list[str]) -> None:
    says(judge_unit(unit), status, *words)


def test_systemds_words_are_read() -> None:
    answer = "Result=success\nNRestarts=3\nLoadState=loaded\nActiveState=active\nSubState=running\n"
    assert parse_unit(answer) == Unit("loaded", "active", "running", "", "success", 3)
    assert parse_unit("NRestarts=[not set]\n") == Unit()


def test_an_active_ollama_is_told_of() -> None:
    says(judge_ollama(()), OK)
    units = ("ollama.service", "ollama-helper.service")
    says(judge_ollama(units), WARNING, "disable --now ollama.service ollama-helper.service")


@pytest.mark.parametrize(
    ("folder", "budget_bytes", "status", "words"),
    [
        (Folder(Path("/c"), True, None, 8 * 10**9), 4096 * MIB, OK, ["/c, 8.0 GB free"]),
        (Folder(Path("/c"), False, None, 8 * 10**9), 4096 * MIB, OK, ["is made when it is needed"]),
        (Folder(Path("/c"), True, None, 10**9), 4096 * MIB, WARNING, ["disk_cache_mib = 4096", "lower"]),
        (Folder(Path("/c"), True, None, 10**9, held_bytes=4 * 10**9), 4096 * MIB, OK, []),
        (
            Folder(Path("/c"), True, "Read-only file system", 1),
            4096 * MIB,
            WARNING,
            ["Read-only", "cache_dir"],
        ),
        (Folder(Path("/c"), True, "Read-only file system", 1), 0, OK, ["no prompts are kept"]),
        (None, 4096 * MIB, WARNING, ["there is none"]),
    ],
)
def test_the_cache_folder(folder: Folder | None, budget_bytes: int, status: Status, words: list[str]) -> None:
    says(judge_cache(folder, budget_bytes), status, *words)


@pytest.mark.parametrize(
    ("folder", "missing_bytes", "status", "words"),
    [
        (Folder(Path("/m"), True, None, 8 * 10**9), 6 * 10**9, OK, ["8.0 GB free"]),
        (Folder(Path("/m"), True, None, 8 * 10**9), 9 * 10**9, WARNING, ["missing models take 9.0 GB"]),
        (Folder(Path("/m"), True, "Permission denied", None), 0, WARNING, ["no model can be pulled"]),
    ],
)
def test_the_models_folder(folder: Folder, missing_bytes: int, status: Status, words: list[str]) -> None:
    says(judge_models_dir(folder, missing_bytes), status, *words)


def test_what_ended_the_service_is_told_with_the_way_to_forget_it() -> None:
    at = datetime.datetime(2026, 11, 28, 18, tzinfo=datetime.UTC)
    crash = Crash("loaded qwen3:1.7b on cuda:1", 2, at, 1400 * 2**20, shared=False)
    (check,) = judge_crashes(Path("/c/crashes"), [crash])
    says(check, WARNING, "twice", "1400 MiB planned", "until 2026-11-29 06:00 UTC", "delete /c/crashes")
    assert check.subject == "loaded qwen3:1.7b on cuda:1"
    says(*judge_crashes(Path("/c/crashes"), []), OK, "not ended the service lately")
    says(*judge_crashes(None, []), OK, "not remembered")


def test_cards_by_another_name_get_their_number_from_the_plan() -> None:
    by_uuid: dict[str, Any] = {"generator": {"device": "GPU-2060abcd"}, "helper": {"device": "vulkan:0"}}
    settings = load_settings(None, {}, by_uuid)
    assert wanted_cards(settings, ()) == {}
    planned = (Planned("generator", "qwen", "cuda:1"), Planned("helper", "qwen3", "vulkan:0"))
    assert wanted_cards(settings, planned) == {"generator": "cuda:1"}


KEYS = Path("keys.toml")


@pytest.mark.parametrize(
    ("check", "status", "words"),
    [
        (judge_access(None, 0, None, []), OK, ["only this machine"]),
        (judge_access(None, 0, None, ["0.0.0.0:8512"]), WARNING, ["0.0.0.0:8512", "keys_file"]),
        (judge_access(KEYS, 2, None, ["0.0.0.0:8512"]), OK, ["2 in keys.toml"]),
        (judge_access(KEYS, 0, "others may read it", []), FAULT, ["others may", "docs/security.md"]),
    ],
)
def test_who_can_reach_it(check: Check, status: Status, words: list[str]) -> None:
    says(check, status, *words)
