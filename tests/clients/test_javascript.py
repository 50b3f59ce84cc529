"""The JavaScript client library, in a real Node process."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.api.asking import GENERATOR
from tests.running import PROJECT, RunningServer

HERE = Path(__file__).parent
SCRIPT = HERE / "client.mjs"
BUILD = PROJECT / "build" / "clients"
MANIFESTS = ("package.json", "package-lock.json")


@pytest.fixture(scope="module")
def installed() -> Path:
    """A folder with the locked packages and the script beside them; it outlives the test run."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: the JavaScript client cannot run")
    stamp = BUILD / "installed"
    wanted = "".join((HERE / name).read_text() for name in MANIFESTS)
    if not stamp.exists() or stamp.read_text() != wanted:
        install(stamp, wanted)
    # A module looks for packages beside itself.
    shutil.copy(SCRIPT, BUILD)
    return BUILD / SCRIPT.name


def install(stamp: Path, wanted: str) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in MANIFESTS:
        shutil.copy(HERE / name, BUILD)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    stamp.write_text(wanted)


def test_the_javascript_client(installed: Path, skilled_server: RunningServer) -> None:
    command = ["node", str(installed), skilled_server.url, GENERATOR]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = re.findall(r"^  async (\w+)\(\)", SCRIPT.read_text(), re.MULTILINE)
    assert done.stdout.split() == [word for name in checks for word in ("ok", name)]


def test_the_lock_names_no_registry_and_checks_every_package() -> None:
    lock = (HERE / "package-lock.json").read_text()
    assert "://" not in re.sub(r'"(url|homepage)": "[^"]*"', "", lock)
    assert lock.count('"integrity": "sha512-') == lock.count('"node_modules/')
