"""The JavaScript client library, in a real Node process."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.api.asking import GENERATOR
from tests.api.workshop import EMBED, Workshop
from tests.running import PROJECT, RunningServer

HERE = Path(__file__).parent
SCRIPT, EMBEDDING = HERE / "client.mjs", HERE / "embed.mjs"
BUILD = PROJECT / "build" / "clients"
MANIFESTS = ("package.json", "package-lock.json")


@pytest.fixture(scope="module")
def installed() -> Path:
    """A folder with the locked packages and the scripts beside them; it outlives the test run."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: the JavaScript client cannot run")
    stamp = BUILD / "installed"
    wanted = "".join((HERE / name).read_text() for name in MANIFESTS)
    if not stamp.exists() or stamp.read_text() != wanted:
        install(stamp, wanted)
    # A module looks for packages beside itself.
    for script in (SCRIPT, EMBEDDING):
        shutil.copy(script, BUILD)
    return BUILD


def install(stamp: Path, wanted: str) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in MANIFESTS:
        shutil.copy(HERE / name, BUILD)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    stamp.write_text(wanted)


def test_the_javascript_client(installed: Path, skilled_server: RunningServer) -> None:
    done = run(installed / SCRIPT.name, skilled_server.url, GENERATOR)
    checks = re.findall(r"^  async (\w+)\(\)", SCRIPT.read_text(), re.MULTILINE)
    assert done.stdout.split() == [word for name in checks for word in ("ok", name)]


def test_its_embeddings(installed: Path, bench: Workshop) -> None:
    assert run(installed / EMBEDDING.name, bench.server.url, EMBED).stdout == "ok\n"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Node's output, which ends well."""
    words = ["node", *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_lock_names_no_registry_and_checks_every_package() -> None:
    lock = (HERE / "package-lock.json").read_text()
    assert "://" not in re.sub(r'"(url|homepage)": "[^"]*"', "", lock)
    assert lock.count('"integrity": "sha512-') == lock.count('"node_modules/')
