"""The files for systemd: what systemd itself says of them, and whether they fit the program."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from server.commands.failing import WRONG_USE
from server.config import Settings
from server.doctor.units import UNIT
from server.lifecycle import SHUTDOWN_S, UNLOADING_S
from server.supervision import LOADING_PATIENCE_S
from tests.running import PROJECT

FOLDER = PROJECT / "systemd"
MOST_EXPOSED = 15
"""In tenths, as systemd-analyze counts: the network (hub and clients), the cards and /proc/stat remain."""


@pytest.fixture
def analyze(tmp_path: Path) -> Path:
    """A folder with the units, whose program is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    program = tmp_path / "llm-optimizer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in FOLDER.glob("llm-optimizer*"):
        text = path.read_text().replace("/opt/llm-optimizer/.venv/bin/llm-optimizer", str(program))
        (tmp_path / path.name).write_text(text)
    return tmp_path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_has_nothing_to_say_against_them(analyze: Path) -> None:
    units = sorted((*analyze.glob("*.service"), *analyze.glob("*.socket")))
    assert len(units) == 3
    done = run("systemd-analyze", "verify", "--man=no", *units)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_is_locked_up(analyze: Path) -> None:
    done = run(
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={MOST_EXPOSED}",
        analyze / UNIT,
    )
    assert done.returncode == 0, done.stdout


def unit(name: str) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / name)
    return {section: dict(parser[section]) for section in parser.sections()}


def test_the_units_times_fit_the_programs() -> None:
    service = unit(UNIT)["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) >= Settings().drain_s + SHUTDOWN_S + UNLOADING_S
    assert int(service["TimeoutStartSec"]) == LOADING_PATIENCE_S
    assert int(service["RestartPreventExitStatus"]) == WRONG_USE


def test_the_socket_is_the_default_address() -> None:
    assert (unit("llm-optimizer.socket")["Socket"]["ListenStream"],) == Settings().listen


def test_the_cards_are_not_hidden_and_may_be_used() -> None:
    service = unit(UNIT)["Service"]
    assert service["PrivateDevices"] == "no"
    assert service["DeviceAllow"] == "char-nvidia* rw"


def test_what_the_unit_names_is_there() -> None:
    paths = re.findall(r"/opt/llm-optimizer/\S+", (FOLDER / UNIT).read_text())
    assert "/opt/llm-optimizer/.venv/bin/llm-optimizer" in paths
    assert all(
        (PROJECT / path.removeprefix("/opt/llm-optimizer/")).exists() for path in paths if "docs" in path
    )


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh", "common.sh"])
def test_the_scripts_are_sound(script: str) -> None:
    assert run("bash", "-n", FOLDER / script).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = run("shellcheck", "-x", "-P", PROJECT, FOLDER / script)
    assert done.returncode == 0, done.stdout
