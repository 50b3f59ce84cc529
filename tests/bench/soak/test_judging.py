"""What the soak thinks of memory, counters and the log."""

import mmap
import os
from collections import Counter
from collections.abc import Sequence

import pytest

from bench.soak.findings import Findings, Sample
from bench.soak.judging import (
    MIB,
    MOST_GROWTH_BYTES,
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
from bench.soak.process import memory_bytes, sample
from bench.soak.report import judge_growth
from bench.soak.watching import engine_figures


def samples(*memory: int) -> list[Sample]:
    return [Sample(float(at), taken, taken, 20, 9) for at, taken in enumerate(memory)]


def taken(found: Sample) -> float:
    return found.taken_bytes


def test_memory_is_compared_after_the_warm_up() -> None:
    loading = [10 * at for at in range(100)]
    steady = [1000 + at % 2 for at in range(100)]
    memory = trend(samples(*loading, *steady), 100, taken)
    assert memory is not None
    assert 1000 <= memory.first <= 1001
    assert not memory.grew(MOST_GROWTH_BYTES)
    assert abs(memory.slope_per_hour) < 50


def test_memory_that_grows_is_found() -> None:
    step = MOST_GROWTH_BYTES // 100
    memory = trend(samples(*(at * step for at in range(200))), 50, taken)
    assert memory is not None
    assert memory.grew(MOST_GROWTH_BYTES)
    assert memory.slope_per_hour == pytest.approx(step * 3600)


def test_too_few_samples_say_nothing() -> None:
    assert trend(samples(5, 5, 5, 5), 0, taken) is None


def test_files_and_threads_that_grow_are_found() -> None:
    findings = Findings()
    findings.samples = [Sample(float(at), 1, 1, 20 + at // 2, 9 + at // 10) for at in range(100)]
    judge_growth(findings, 100)
    assert sorted(findings.errors) == ["open files grew by 30, and 8 is allowed"]


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


def test_memory_that_was_taken_counts_before_it_is_touched() -> None:
    before = memory_bytes(os.getpid())
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        taken_bytes, touched_bytes = memory_bytes(os.getpid())
        assert taken_bytes - before[0] >= 64 * MIB
        assert touched_bytes - before[1] < 16 * MIB
        pages.write(bytes(64 * MIB))
        assert memory_bytes(os.getpid())[1] - before[1] >= 64 * MIB


def test_files_of_a_process_are_counted() -> None:
    before = sample(os.getpid(), 0)
    read, write = os.pipe()
    try:
        assert sample(os.getpid(), 0).descriptors == before.descriptors + 2
    finally:
        os.close(read)
        os.close(write)
    assert before.threads >= 1
