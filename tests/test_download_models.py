"""The program that brings the two real models, against a hub of the test's own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.tiny_models import write_llama
from server.catalogue.known import known_models
from tests.fake_hub import FakeHub
from tests.running import PROJECT

GENERATOR, HELPER = (model for model in known_models() if model.role)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    content = write_llama(tmp_path / "tiny.gguf").read_bytes()
    with FakeHub() as running:
        for model in (GENERATOR, HELPER):
            key = (model.file or "").replace(".gguf", "_gguf")
            running.add(model.repository, **{key: content})
        yield running


def run(hub: FakeHub, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "scripts/download_models.py", *arguments]
    path = {"PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        command,
        cwd=PROJECT,
        env={**environment, **path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_both_models_get_the_names_that_the_settings_know(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    done = run(hub, "--dir", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in folder.iterdir()} == {GENERATOR.saved_as, HELPER.saved_as}
    again = run(hub, "--dir", str(folder))
    assert again.stdout.count("is there already") == 2
    assert len(hub.ranges) == 2


def test_only_one_of_them(hub: FakeHub, tmp_path: Path) -> None:
    assert run(hub, "helper", "--dir", str(tmp_path / "models")).returncode == 0
    assert [path.name for path in (tmp_path / "models").iterdir()] == [HELPER.saved_as]


def test_the_list_downloads_nothing(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / (HELPER.saved_as or "")).write_bytes(b"there")
    told = run(hub, "--list", "--dir", str(tmp_path)).stdout
    assert re.search(r"qwen2\.5-coder:7b +missing +4\.7 GB", told)
    assert re.search(r"qwen3:1\.7b +present ", told)
    assert hub.ranges == []


def test_a_download_that_fails_says_why(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories.clear()
    failed = run(hub, "--dir", str(tmp_path / "models"))
    assert failed.returncode == 1
    assert "was not pulled: the hub does not have Qwen/Qwen2.5-Coder-7B-Instruct-GGUF" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_files_are_verified_by_the_hubs_word(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    run(hub, "--dir", str(folder))
    assert run(hub, "--verify", "--dir", str(folder)).returncode == 0
    path = folder / (HELPER.saved_as or "")
    path.write_bytes(path.read_bytes() + b"more")
    damaged = run(hub, "--verify", "--dir", str(folder))
    assert damaged.returncode == 1
    assert damaged.stderr.startswith("damaged  qwen3:1.7b: ")
    assert damaged.stderr.endswith("; delete it, and pull qwen3:1.7b again\n")


def test_the_settings_of_a_service_are_not_meant(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_OPTIMIZER_HELPER__NAME", "another")
    assert run(hub, "helper", "--dir", str(tmp_path / "models")).returncode == 0
