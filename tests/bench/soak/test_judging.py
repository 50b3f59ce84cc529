"""What the soak thinks of memory, counters and the log."""

import mmap
import os
from collections import Counter
from collections.abc import Sequence

import pytest

from bench.soak.findings import Findings, Sample
from bench.soak.judging import (
    MIB,
    course,
    disagreements,
    is_fault,
    log_faults,
    own_faults,
    requests_of,
    series_of,
    shrunk,
    total_of,
    trend,
)
from bench.soak.plans import Answer, Expected, Plan, Told, Wire
from bench.soak.process import Process, process_now
from bench.soak.report import judge_growth
from bench.soak.watching import engine_figures


def sample_of(
    at: int,
    *,
    taken: int = 0,
    free: int = 0,
    resident: int = 0,
    in_use: int = 0,
    files: int = 20,
    threads: int = 9,
    blocks: int = 0,
) -> Sample:
    return Sample(float(at), Process(taken, resident, files, threads), in_use, free, blocks)


def resident_bytes(found: Sample) -> float:
    return found.process.resident_bytes


def test_memory_is_compared_after_the_warm_up() -> None:
    loading = [10 * at for at in range(100)]
    steady = [1000 + at % 2 for at in range(100)]
    memory = trend(
        [sample_of(at, resident=size) for at, size in enumerate([*loading, *steady])], 100, resident_bytes
    )
    assert memory is not None
    assert 1000 <= memory.first <= 1001
    assert not memory.grew(10)
    assert abs(memory.slope_per_hour) < 50


def test_memory_that_grows_is_found() -> None:
    memory = trend([sample_of(at, resident=at * 7) for at in range(200)], 50, resident_bytes)
    assert memory is not None
    assert memory.grew(7 * 119)
    assert not memory.grew(7 * 120)
    assert memory.slope_per_hour == pytest.approx(7 * 3600)


def test_too_few_samples_say_nothing() -> None:
    assert trend([sample_of(at) for at in range(4)], 0, resident_bytes) is None


@pytest.mark.parametrize(
    ("step", "errors"),
    [
        ({"resident": MIB // 2}, []),
        ({"resident": MIB}, ["resident memory, MiB: grew by 60.0, and 32 is allowed"]),
        ({"in_use": MIB // 5}, []),
        ({"in_use": MIB // 2}, ["memory in use, MiB: grew by 30.0, and 16 is allowed"]),
        ({"blocks": 500}, []),
        ({"blocks": 1000}, ["blocks of Python, thousands: grew by 60.0, and 50 is allowed"]),
        ({"taken": MIB, "free": MIB // 2}, []),
        ({"taken": MIB}, ["address space without malloc's holes, MiB: grew by 60.0, and 32 is allowed"]),
        ({"files": 1}, ["open files: grew by 60, and 8 is allowed"]),
        ({"threads": 1}, ["threads: grew by 60, and 8 is allowed"]),
    ],
)
def test_what_grows_is_found_and_named(step: dict[str, int], errors: list[str]) -> None:
    findings = Findings()
    findings.samples = [
        sample_of(at, **{what: size * at for what, size in step.items()}) for at in range(100)
    ]
    judge_growth(findings, 100)
    assert list(findings.errors) == errors


def test_the_course_of_memory_is_short() -> None:
    assert course(range(1000)).split()[:3] == ["0", "50", "100"]
    assert len(course(range(1000)).split()) == 20
    assert course([1.0]) == "1"


METRICS = """# TYPE llm_optimizer_requests_total counter
llm_optimizer_requests_total{model="m",outcome="ok",route="/a",strategy="A"} 3.0
llm_optimizer_requests_total{model="m",outcome="ok",route="/a",strategy="B"} 2.0
llm_optimizer_requests_total{model="none",outcome="invalid",route="/a",strategy="none"} 1.0
# TYPE x gauge
x 7.0
"""


def test_requests_are_added_up_by_route_and_outcome() -> None:
    assert requests_of(series_of(METRICS)) == {("/a", "ok"): 5, ("/a", "invalid"): 1}
    assert total_of(series_of(METRICS), "x") == 7


def test_counters_never_shrink_and_gauges_may() -> None:
    before = series_of(METRICS)
    assert shrunk(before, before) == []
    fewer = METRICS.replace("3.0", "2.0").replace("7.0", "1.0")
    assert "3 became 2" in shrunk(before, series_of(fewer))[0]
    assert "became None" in shrunk(before, series_of("x 7.0\n"))[0]


@pytest.mark.parametrize(
    ("server", "hung_up", "faults"),
    [
        ({("/a", "ok"): 3}, 0, 0),
        ({("/a", "ok"): 3, ("/a", "cancelled"): 2}, 2, 0),
        ({("/a", "ok"): 4, ("/a", "cancelled"): 1}, 2, 0),
        ({("/a", "ok"): 3}, 2, 0),
        ({("/a", "ok"): 2}, 2, 1),
        ({("/a", "ok"): 4}, 0, 1),
        ({("/a", "ok"): 3, ("/b", "ok"): 1}, 5, 1),
        ({("/a", "length"): 3}, 3, 1),
    ],
)
def test_counters_agree_with_what_clients_saw(
    server: dict[tuple[str, str], int], hung_up: int, faults: int
) -> None:
    clients = Counter({("/a", "ok"): 3})
    assert len(disagreements(Counter(server), clients, {"/a": hung_up})) == faults


def test_others_may_have_asked_as_well() -> None:
    assert disagreements(Counter({("/b", "ok"): 9}), Counter(), {}, alone=False) == []


def test_what_the_server_counts_as_its_own_faults() -> None:
    assert own_faults(Counter({("/a", "ok"): 3, ("/a", "cancelled"): 1})) == []
    assert own_faults(Counter({("/a", "internal"): 1})) == ["1 counted as internal at /a"]


def noted(answer: Answer, told: Told, expected: Expected = Expected()) -> Findings:  # noqa: B008
    findings = Findings()
    findings.note(Plan("k", "/a?x=1", {}, Wire.OLLAMA, expected, manner="hung up at once"), answer, told)
    return findings


def test_what_a_client_knows_of_the_counters() -> None:
    assert noted(Answer(200, ()), Told((), "length", 3, 2)).counted == {("/a", "length"): 1}
    refused = noted(Answer(401, ()), Told(), Expected(401, "refused", "unmatched"))
    assert refused.counted == {("unmatched", "refused"): 1}
    gone = noted(Answer(0, (), complete=False), Told())
    assert (gone.counted, gone.open_ended, gone.outcomes) == ({}, {"/a": 1}, {("k", "hung up at once"): 1})
    wrong = noted(Answer(200, ()), Told(("broken",)))
    assert (wrong.counted, wrong.open_ended, wrong.errors) == ({}, {"/a": 1}, {"k: broken": 1})


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("12:00:00 ERROR engine failed", True),
        ("Traceback (most recent call last):", True),
        ("/api/chat: direto GPU0 (3 tokens, stream=True)", False),
    ],
)
def test_faults_in_the_log(line: str, fault: bool) -> None:
    assert is_fault(line) == fault


@pytest.mark.parametrize(("wrong_files", "faults"), [(1, 0), (0, 1), (2, 1)])
def test_a_wrong_file_is_refused_once(wrong_files: int, faults: int) -> None:
    lines: Sequence[str] = ["12:00:00 ERROR reload: all stays as it was, because of: x", "12:00:00 INFO y"]
    assert len(log_faults(lines, wrong_files)) == faults


def test_figures_of_the_engines() -> None:
    models = [
        {"name": "a", "slots": {"total": 8, "running": 2, "queued": 1}},
        {"name": "b", "cells_in_use": 9},
    ]
    assert engine_figures(models) == {"running of a": 2, "queued of a": 1, "cells_in_use of b": 9}


def test_memory_is_resident_once_it_is_touched() -> None:
    before = process_now(os.getpid())
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        taken = process_now(os.getpid())
        assert taken.taken_bytes - before.taken_bytes >= 64 * MIB
        assert taken.resident_bytes - before.resident_bytes < 16 * MIB
        pages.write(bytes(64 * MIB))
        assert process_now(os.getpid()).resident_bytes - before.resident_bytes >= 64 * MIB


def test_files_of_a_process_are_counted() -> None:
    before = process_now(os.getpid())
    read, write = os.pipe()
    try:
        assert process_now(os.getpid()).descriptors == before.descriptors + 2
    finally:
        os.close(read)
        os.close(write)
    assert before.threads >= 1
