import datetime
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from server.service.crashes import Crash, Crashes
from tests.running import PROJECT

MIB = 2**20
ABORTS = """
import contextlib, os, pathlib, sys
from server.service.crashes import Crashes
crashes = Crashes(pathlib.Path(sys.argv[1]))
with contextlib.ExitStack() as stack:
    for number, model in enumerate(sys.argv[2:]):
        stack.enter_context(crashes.risking(model, f"loaded {model}", (100 + number) * 2**20))
    os.abort()
"""


def abort_in(folder: Path, *models: str) -> None:
    command = [sys.executable, "-c", ABORTS, str(folder), *models]
    assert subprocess.run(command, cwd=PROJECT, check=False, timeout=60).returncode == -6


def test_an_abort_is_remembered_by_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    abort_in(tmp_path, "7b")
    crashes = Crashes(tmp_path)
    # Whoever only asks leaves it to the next start to tell of it.
    assert crashes.in_force().keys() == {"7b"}

    (crash,) = crashes.look_back()
    assert (crash.what, crash.times, crash.least_bytes, crash.shared) == ("loaded 7b", 1, 100 * MIB, False)
    assert crash.until - crash.at == datetime.timedelta(hours=6)
    words = f"the service ended while it loaded 7b with 100 MiB planned (once, at last on {crash.at:%Y-%m-%d}"
    assert [message[: len(words)] for message in caplog.messages] == [words]

    assert Crashes(tmp_path).look_back() == ()
    assert (crashes.last("7b"), crashes.last("1.7b")) == (crash, None)
    abort_in(tmp_path, "7b")
    (again,) = Crashes(tmp_path).look_back()
    assert (again.times, again.until - again.at) == (2, datetime.timedelta(hours=12))


def test_one_of_two_that_were_under_way_may_have_had_no_part_in_it(tmp_path: Path) -> None:
    abort_in(tmp_path, "7b", "1.7b")
    found = Crashes(tmp_path).look_back()
    assert sorted((crash.what, crash.shared) for crash in found) == [
        ("loaded 1.7b", True),
        ("loaded 7b", True),
    ]
    assert "perhaps through something else that it did at that moment" in str(found[0])


def test_the_smallest_plan_that_ended_the_service_counts(tmp_path: Path) -> None:
    abort_in(tmp_path, "7b")
    abort_in(tmp_path, "1.7b", "7b")
    assert {crash.least_bytes // MIB for crash in Crashes(tmp_path).look_back()} == {100}


def test_it_is_forgotten_after_a_while_or_when_all_went_well(tmp_path: Path) -> None:
    abort_in(tmp_path, "7b", "1.7b")
    crashes = Crashes(tmp_path)
    crashes.look_back()
    crashes.forget("7b")
    assert crashes.in_force().keys() == {"1.7b"}

    (file,) = tmp_path.iterdir()
    told = json.loads(file.read_text())
    hours_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=7)
    file.write_text(json.dumps({"1.7b": {**told["1.7b"], "at": hours_ago.isoformat()}}))
    assert crashes.last("1.7b") is None
    abort_in(tmp_path, "1.7b")
    # It was not forgotten for good: what comes again counts more.
    assert [crash.times for crash in crashes.look_back()] == [2]


def test_waiting_has_an_end() -> None:
    crash = Crash("loaded 7b", 1000, datetime.datetime.now(datetime.UTC), MIB, shared=False)
    assert crash.until - crash.at == datetime.timedelta(days=16)
    assert "(1000 times, " in str(crash)
    assert "(twice, " in str(replace(crash, times=2))


def test_what_goes_well_or_only_raises_leaves_nothing(tmp_path: Path) -> None:
    crashes = Crashes(tmp_path)
    with crashes.risking("a", "loaded a", 0):
        assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(KeyError), crashes.risking("a", "loaded a", 0):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert crashes.look_back() == ()


def test_another_service_at_work_is_no_crash(tmp_path: Path) -> None:
    with Crashes(tmp_path).risking("a", "loaded a", 0):
        assert Crashes(tmp_path).look_back() == ()
        assert len(list(tmp_path.iterdir())) == 1


def test_a_number_that_another_process_has_now_is_a_crash(tmp_path: Path) -> None:
    with Crashes(tmp_path).risking("a", "loaded a", 0):
        (marker,) = tmp_path.iterdir()
        left = json.loads(marker.read_text())
        marker.write_text(json.dumps({**left, "started": "1"}))
        assert left["pid"] == os.getpid()
        assert Crashes(tmp_path).last("a")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "x"}', '{"a": {"times": 1}}'])
@pytest.mark.parametrize("name", ["crashes.json", "risk-1.json"])
def test_a_damaged_file_is_no_obstacle(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    crashes = Crashes(tmp_path)
    assert (crashes.look_back(), crashes.last("a")) == ((), None)
    crashes.forget("a")


def test_a_folder_that_cannot_be_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    crashes = Crashes(tmp_path / "file")
    assert crashes.look_back() == ()
    with crashes.risking("a", "loaded a", 0):
        pass
    assert "crashes are not remembered" in caplog.text
    nowhere = Crashes(None)
    with nowhere.risking("a", "loaded a", 0):
        pass
    nowhere.forget("a")
    assert (nowhere.look_back(), nowhere.in_force()) == ((), {})
