import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.service.crashes import Crashes
from tests.running import PROJECT

ABORTS = """
import os, pathlib, sys
from server.service.crashes import Crashes
with Crashes(pathlib.Path(sys.argv[1])).risking("7b on cuda:0", "loaded 7b on cuda:0"):
    os.abort()
"""


def abort_in(folder: Path) -> None:
    child = subprocess.run([sys.executable, "-c", ABORTS, str(folder)], cwd=PROJECT, check=False, timeout=60)
    assert child.returncode == -6


def test_an_abort_is_remembered_by_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    abort_in(tmp_path)
    crashes = Crashes(tmp_path)
    assert (crashes.times("7b on cuda:0"), crashes.times("1.7b on cuda:1")) == (1, 0)
    assert caplog.messages == ["the service ended while it loaded 7b on cuda:0, for the first time"]
    caplog.clear()
    assert Crashes(tmp_path).times("7b on cuda:0") == 1
    assert caplog.messages == []
    abort_in(tmp_path)
    assert Crashes(tmp_path).times("7b on cuda:0") == 2


def test_what_goes_well_or_only_raises_leaves_nothing(tmp_path: Path) -> None:
    crashes = Crashes(tmp_path)
    with crashes.risking("a", "loaded a"):
        assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(KeyError), crashes.risking("a", "loaded a"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert Crashes(tmp_path).times("a") == 0


def test_another_service_at_work_is_no_crash(tmp_path: Path) -> None:
    with Crashes(tmp_path).risking("a", "loaded a"):
        assert Crashes(tmp_path).times("a") == 0


def test_a_number_that_another_process_has_now_is_a_crash(tmp_path: Path) -> None:
    with Crashes(tmp_path).risking("a", "loaded a"):
        (marker,) = tmp_path.iterdir()
        left = json.loads(marker.read_text())
        marker.write_text(json.dumps({**left, "started": "1"}))
        assert left["pid"] == os.getpid()
        assert Crashes(tmp_path).times("a") == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "x"}'])
def test_a_damaged_file_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "crashes.json").write_text(content)
    assert Crashes(tmp_path).times("a") == 0


def test_a_folder_that_cannot_be_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    crashes = Crashes(tmp_path / "file")
    with crashes.risking("a", "loaded a"):
        pass
    assert "crashes are not remembered" in caplog.text
    with Crashes(None).risking("a", "loaded a"):
        pass
