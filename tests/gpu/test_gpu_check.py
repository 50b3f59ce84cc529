"""The GPU check's judgements; and all of it without a card, which takes most of a minute."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from bench.gpu_check import load, memory, speed
from bench.gpu_check.__main__ import main
from bench.gpu_check.cards import GENERATOR, HELPER, places
from bench.gpu_check.parts import CannotRun, Clock, Faulty, Findings, Found, Skipped
from bench.gpu_check.report import BEGIN, NONE_YET, Finding, Report, Status, written_into
from bench.gpu_check.service import Answer, new_prompt
from server.gpu.nvml import GpuReading
from tests.gpu.fake_nvml import FakeNvml
from tests.running import PROJECT

MIB = 2**20
RTX = GpuReading(0, uuid="GPU-2060", pci_bus_id="0000:01:00.0", memory_total_bytes=8192 * MIB)
GTX = GpuReading(1, uuid="GPU-1050", pci_bus_id="0000:0a:00.0", memory_total_bytes=2048 * MIB)
LOST = GpuReading(2, uuid="GPU-lost", fault="lost")


def found_nothing() -> Found:
    return Found("well", {})


def raising(error: Exception) -> Callable[[], Found]:
    def part() -> Found:
        raise error

    return part


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        (found_nothing, Status.OK, "well"),
        (raising(Skipped("no card")), Status.SKIPPED, "no card"),
        (raising(Faulty("too much", bytes=3)), Status.FAULT, "too much"),
        (raising(httpx.ReadTimeout("late")), Status.FAULT, "ReadTimeout: late"),
        (raising(subprocess.TimeoutExpired("x", 3)), Status.FAULT, "TimeoutExpired"),
        (raising(FileNotFoundError("gone")), Status.FAULT, "FileNotFoundError: gone"),
    ],
)
def test_what_a_part_ends_with_is_its_finding(part: Callable[[], Found], status: Status, said: str) -> None:
    told: list[Finding] = []
    findings = Findings(Clock(60), told.append)

    went_well = findings.run("part", part)

    [found] = findings.all
    assert told == [found]
    assert (found.name, found.status, went_well) == ("part", status, status is Status.OK)
    assert said in found.said


def test_once_the_time_is_up_no_part_begins() -> None:
    findings = Findings(Clock(0), lambda _: None)
    findings.run("part", raising(AssertionError()))
    assert findings.all[0].status is Status.SKIPPED


REPORT = Report(
    "2026-11-28",
    61.4,
    on_card=True,
    facts={"card 0": "RTX"},
    findings=[Finding("a", Status.OK, "x | y", {"n_bytes": 3}), Finding("b", Status.SKIPPED, "no card")],
)


def test_a_fault_is_the_worst() -> None:
    assert REPORT.status is Status.OK
    assert replace(REPORT, findings=[Finding("c", Status.FAULT, "")]).status is Status.FAULT


def test_the_report_as_json_has_all_figures() -> None:
    told = json.loads(REPORT.as_json())
    assert (told["schema"], told["status"], told["on_card"]) == (1, "ok", True)
    assert told["findings"][0]["figures"] == {"n_bytes": 3}


def test_the_newest_figures_come_first_on_the_page() -> None:
    page = f"# Check\n{NONE_YET}\n{BEGIN}\n### 2026-01-01, without a card\n"

    renewed = written_into(page, REPORT)

    assert NONE_YET not in renewed
    assert renewed.index("### 2026-11-28, on a card") < renewed.index("### 2026-01-01")
    assert "| a | ok | x \\| y |" in renewed
    assert NONE_YET in written_into(page, replace(REPORT, on_card=False))


def test_the_real_page_has_a_place_for_figures() -> None:
    page = (PROJECT / "docs" / "gpu-check.md").read_text(encoding="utf-8")
    assert "2026-11-28, on a card" in written_into(page, REPORT)
    with pytest.raises(ValueError, match="the page lacks"):
        written_into("# Another page\n", REPORT)


@pytest.mark.parametrize(
    ("cards", "chosen", "devices"),
    [
        ([], [], ("cpu", "cpu")),
        ([LOST], [], ("cpu", "cpu")),
        ([RTX], [], ("GPU-2060", "GPU-2060")),
        ([GTX, RTX, LOST], [], ("GPU-2060", "GPU-1050")),
        ([GTX, RTX], [1], ("GPU-1050", "GPU-1050")),
        ([GTX, RTX], [1, 0], ("GPU-1050", "GPU-2060")),
    ],
)
def test_where_the_models_go(cards: list[GpuReading], chosen: list[int], devices: tuple[str, str]) -> None:
    where = places(cards, chosen)
    assert (where[GENERATOR].device, where[HELPER].device) == devices


def test_a_card_that_is_not_there_cannot_be_chosen() -> None:
    with pytest.raises(CannotRun, match="no usable card has the number 2; those here: 0"):
        places([RTX, LOST], [2])


def taken(planned_mib: int, taken_mib: int, left_mib: int = 0) -> memory.Round:
    before = 300 * MIB
    return memory.Round(before, before + taken_mib * MIB, before + left_mib * MIB, planned_mib * MIB, None)


@pytest.mark.parametrize(
    ("planned_mib", "taken_mib"), [(1426, 1426), (1426, 1489), (6163, 6000), (6163, 6340)]
)
def test_a_plan_within_three_per_cent_or_64_mib_is_right(planned_mib: int, taken_mib: int) -> None:
    found = memory.judged_plan(taken(planned_mib, taken_mib))
    assert f"planned {planned_mib} MiB, NVML {taken_mib} MiB" in found.said


@pytest.mark.parametrize(
    ("planned_mib", "taken_mib"), [(1426, 1500), (1500, 1426), (6163, 5900), (6163, 6400)]
)
def test_a_plan_that_is_further_off_is_a_fault(planned_mib: int, taken_mib: int) -> None:
    with pytest.raises(Faulty, match="more than 3 % and 64 MiB"):
        memory.judged_plan(taken(planned_mib, taken_mib))


def test_memory_that_stays_is_a_fault() -> None:
    assert memory.judged_unload(taken(1426, 1426, 64)).figures["left_bytes"] == 64 * MIB
    with pytest.raises(Faulty, match="65 MiB not given back; more than 64 MiB"):
        memory.judged_unload(taken(1426, 1426, 65))
    with pytest.raises(Faulty, match="more than 20 MiB"):
        memory.judged_unload(taken(40, 40, 21))


def test_what_llama_bench_says_is_told_apart() -> None:
    runs = [
        {"n_prompt": 512, "n_gen": 0, "avg_ts": 900.0},
        {"n_prompt": 0, "n_gen": 128, "avg_ts": 50.0},
    ]
    assert speed.rates_of(runs) == speed.Rates(900.0, 50.0)
    with pytest.raises(Faulty, match="no rates"):
        speed.rates_of(runs[:1])


def test_the_medians_are_compared() -> None:
    theirs = [speed.Rates(900, rate) for rate in (49.0, 50.0, 90.0)]
    found = speed.judged([speed.Rates(800, rate) for rate in (10.0, 48.0, 49.0)], theirs, 0.85)
    assert found.figures["generating_ratio"] == pytest.approx(48 / 50)
    assert "generating 48.0 against 50.0 tokens/s, ratio 0.96" in found.said
    with pytest.raises(Faulty, match=r"ratio 0\.84; .* less than 0\.85"):
        speed.judged([speed.Rates(800, 42.0)], theirs, 0.85)
    assert "not judged" in speed.judged([speed.Rates(800, 42.0)], theirs, 0).said


def test_health_that_is_slow_now_and_then_is_told_and_often_is_a_fault() -> None:
    rarely = load.Load({}, {"/health": [3.0] * 99 + [80.0]})
    found = load.judged_health(rarely)
    assert "/health median 3.0 ms, 95 % within 3.0, longest 80.0 of 100" in found.said
    often = load.Load({}, {"/health": [3.0] * 90 + [80.0] * 10, "/health/gpu": [1.0]})
    with pytest.raises(Faulty, match=r"/health should take less than 50 ms"):
        load.judged_health(often)


def test_a_model_that_says_nothing_beside_the_other_is_a_fault() -> None:
    spoke = {"a": [Answer(8, 100.0, 20.0)], "b": [Answer(8, 100.0, 30.0)]}
    alone = {"a": 25.0, "b": 31.0}
    assert "a 20.0 tokens/s (alone 25.0), 1 answers" in load.judged_answers(load.Load(spoke, {}), alone).said
    with pytest.raises(Faulty, match="nothing of b"):
        load.judged_answers(load.Load({**spoke, "b": [Answer(0, 100.0, 0.0)]}, {}), alone)


def test_no_prompt_begins_like_another() -> None:
    assert len({new_prompt(number, 20)[:6] for number in range(50)}) == 50


# The command


def run(*arguments: str) -> int:
    """The command in this process, whose way to end stays as it was."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return main(arguments)
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_card_that_is_not_there_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--card", "77", "--folder", str(tmp_path)) == 2
    assert "no usable card has the number 77" in capsys.readouterr().err


def test_a_full_disk_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * MIB))
    assert run("check", "--device", "cpu", "--folder", str(tmp_path)) == 2
    assert "100 MiB are free" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_card_everything_runs_that_needs_none(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--folder", str(tmp_path), "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check", "check", *options],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    found = {one["name"]: one for one in json.loads((tmp_path / "found.json").read_text())["findings"]}
    # How quickly a busy machine answers is no matter of this test.
    faults = {name for name, one in found.items() if one["status"] == "fault"} - {"both: health meanwhile"}

    assert faults == set(), done.stdout
    assert found["generator: plan against NVML"]["said"] == "no NVIDIA card"
    assert found["generator: plan against llama.cpp's words"]["figures"]["within"] == 6
    assert found["helper: memory comes back"]["status"] == "ok"
    assert found["both: generate at once"]["status"] == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


STAND_INS = """
import sys
from dataclasses import replace
from pathlib import Path
from bench.gpu_check import __main__ as command, cards, subjects
from bench.gpu_check.build import Build
from bench.real_shapes import scaled_down

shapes = subjects.SHAPES.items()
subjects.SHAPES = {role: replace(scaled_down(shape), trained_tokens=4096) for role, shape in shapes}
cards._place = lambda card: cards.Place("cpu", card)
command.finished = lambda folder: Build(folder, "75")
command.FILES_BYTES = {True: 0}
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_way_with_a_card_on_stand_ins_for_all_of_it(
    fake_nvml: FakeNvml, fake_cuda_folder: Path, tmp_path: Path
) -> None:
    """NVML and the driver's library are pretended, and the models are on the CPU: so what they take is not
    seen, and not judged here."""
    environment = fake_nvml.environment()
    environment["LD_LIBRARY_PATH"] += f":{fake_cuda_folder}"
    options = ["--card", "0", "--folder", str(tmp_path), "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-c", STAND_INS, "check", *options],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    report = json.loads((tmp_path / "found.json").read_text())
    found = {one["name"]: one for one in report["findings"]}

    assert report["on_card"], done.stdout
    assert "RTX 2060 SUPER, 7.5, 8192 MiB" in report["facts"]["card 0"]
    for mib in (8192, 2048, 10_240):
        [filled] = [one for name, one in found.items() if f"filled until {mib} MiB" in name]
        assert filled["figures"] == {"free_bytes": mib * MIB}
    assert found["helper: loads and answers"]["status"] == "ok"
    assert "NVML 0 MiB" in found["generator: plan against NVML"]["said"]
    assert "16 MiB left free" in found["helper: another program takes its memory"]["said"]
    assert found["both: generate at once"]["status"] == "ok"
    assert "llama-bench" in found["helper: speed against llama-bench"]["said"]
    assert found["service: ends when told to"]["status"] == "ok"
