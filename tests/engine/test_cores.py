"""How many threads compute beside other programs."""

import os
import subprocess
import sys
import time

import pytest

from server.engine import cores
from server.engine.cores import CoreWatch, CpuTimes, read_cpu_times, threads_beside

START = CpuTimes(100.0, 1000.0, 50.0)


def after(others: float, own: float, wall_s: float = 0.5) -> CpuTimes:
    """Half a second in which others kept so many cores busy, and we so many."""
    return CpuTimes(100.0 + wall_s, 1000.0 + (others + own) * wall_s, 50.0 + own * wall_s)


@pytest.mark.parametrize(
    ("others", "cores_there", "most", "threads"),
    [
        (0.0, 2, 2, 2),
        (0.5, 2, 2, 2),
        (0.7, 2, 2, 1),
        (1.0, 2, 2, 1),
        (1.9, 2, 2, 1),
        (1.0, 8, 8, 7),
        (3.0, 8, 4, 4),
        (6.7, 8, 4, 1),
        (0.0, 8, 4, 4),
    ],
)
def test_threads_take_the_cores_that_are_left(
    others: float, cores_there: int, most: int, threads: int
) -> None:
    assert threads_beside(START, after(others, own=1.3), cores_there, most) == threads


def test_our_own_work_is_not_anothers() -> None:
    assert threads_beside(START, after(0.0, own=2.0), 2, 2) == 2


def test_the_watch_looks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(cores.time, "monotonic", lambda: clock[0])
    readings = iter([START, after(1.0, own=1.0)])
    watch = CoreWatch(64, lambda: next(readings))
    assert watch.threads() == 64
    assert watch.threads() is None
    clock[0] = 100.6
    assert watch.threads() == max((os.cpu_count() or 1) - 1, 1)
    assert watch.threads() is None


def test_what_others_did_while_the_engine_was_idle_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(cores.time, "monotonic", lambda: clock[0])
    readings = iter([START, after(60.0, own=0.0, wall_s=60.0)])
    watch = CoreWatch(2, lambda: next(readings))
    assert watch.threads() == 2
    watch.rest()
    clock[0] = 160.0
    assert watch.threads() == 2


def test_where_nobody_can_tell_all_threads_compute() -> None:
    watch = CoreWatch(2, lambda: None)
    assert {watch.threads() for _ in range(3)} == {2}


def test_a_busy_program_is_seen() -> None:
    spin = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        try:
            before = read_cpu_times()
            time.sleep(1.0)
            now = read_cpu_times()
        finally:
            other.kill()
    assert before is not None
    assert now is not None
    busy_beside_us = (now.busy_s - before.busy_s) - (now.own_s - before.own_s)
    assert busy_beside_us / (now.clock_s - before.clock_s) > 0.6
