"""``llm-optimizer pull`` as a user types it, against a hub of the test's own."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from bench.tiny_models import write_bert, write_llama
from server.catalogue import Catalogue
from server.config import Settings
from server.pull import PullCommand
from tests.fake_hub import FakeHub, Lie
from tests.running import PROJECT, embedded_config

MIB = 2**20
HF, FILE = "hf.co/org/repo", "hf.co+org+repo@latest.gguf"


@dataclass
class Shell:
    """A terminal of somebody whose models are ``big:7b`` and ``qwen3:1.7b``, and lie in ``folder``."""

    hub: FakeHub
    folder: Path
    config: Path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "server", "pull", *arguments],
            cwd=PROJECT,
            env={
                **os.environ,
                "HF_ENDPOINT": self.hub.url,
                "NO_PROXY": "127.0.0.1",
                "LLM_OPTIMIZER_MODELS_DIR": str(self.folder),
                "COLUMNS": "100",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, output, complaints."""
        with self.start(*arguments, **environment) as process:
            out, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        return process.returncode, out, errors

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_llama(tmp_path_factory.mktemp("pull") / "tiny.gguf").read_bytes()


@pytest.fixture(scope="module")
def large(tiny: bytes) -> bytes:
    return tiny + bytes(25 * MIB - len(tiny))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    config = tmp_path / "config.toml"
    big = write_llama(tmp_path / "big.gguf")
    helper = {"name": "qwen3:1.7b", "path": "helper.gguf"}
    config.write_text(embedded_config(big, helper=helper, generator={"name": "big:7b"}))
    with FakeHub() as hub:
        yield Shell(hub, tmp_path / "models", config)


def test_a_model_comes_in_steps_and_is_checked(shell: Shell, large: bytes) -> None:
    shell.hub.add("org/repo", m_gguf=large)
    code, out, errors = shell.run(HF)
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{HF}:latest: pulling manifest"
    assert lines[1].endswith(", 0.00 of 0.03 GB")
    assert 10 < len(lines) < 50
    assert lines[-1] == f"{HF}: {shell.folder / FILE} is there now"
    assert (shell.folder / FILE).read_bytes() == large
    assert shell.names() == {FILE}
    code, out, _ = shell.run(HF)
    assert code == 0
    assert out.endswith("is there already\n")
    assert len(shell.hub.ranges) == 1


def test_without_names_come_the_models_of_the_settings(shell: Shell, tiny: bytes) -> None:
    shell.hub.add("unsloth/Qwen3-1.7B-GGUF", **{"Qwen3-1.7B-Q4_K_M_gguf": tiny})
    code, out, errors = shell.run("--config", str(shell.config))
    assert (code, errors) == (0, "")
    assert "big.gguf is there already" in out
    assert (shell.folder / "helper.gguf").read_bytes() == tiny
    assert not (shell.folder / "catalogue").exists()


def test_another_folder(shell: Shell, tiny: bytes, tmp_path: Path) -> None:
    shell.hub.add("org/repo", m_Q8_0_gguf=tiny)
    assert shell.run(f"{HF}:q8_0", "--dir", str(tmp_path / "other"))[0] == 0
    assert (tmp_path / "other" / "hf.co+org+repo@q8_0.gguf").is_file()
    assert not shell.folder.exists()


def test_what_fails_does_not_keep_the_others_from_coming(shell: Shell, tiny: bytes) -> None:
    shell.hub.add("org/repo", m_gguf=tiny)
    shell.hub.refusals["org/gated"] = (403, "GatedRepo")
    code, _, errors = shell.run("hf.co/org/gated", "nothing", HF)
    assert code == 1
    assert "hf.co/org/gated was not pulled: org/gated is gated: accept its terms" in errors
    assert "nothing was not pulled: model 'nothing' not found" in errors
    assert shell.names() == {FILE}


def test_a_connection_that_breaks_is_taken_up_again_and_said(shell: Shell, large: bytes) -> None:
    shell.hub.add("org/repo", m_gguf=large)
    shell.hub.faults = [12 * MIB]
    code, _, errors = shell.run(HF)
    assert code == 0
    assert "the download goes on in 1 s" in errors
    assert shell.hub.ranges == [None, f"bytes={12 * MIB}-"]


def test_wrong_bytes_are_thrown_away(shell: Shell, large: bytes) -> None:
    shell.hub.add("org/repo", m_gguf=large)
    shell.hub.faults = [Lie.WRONG_BYTES]
    code, _, errors = shell.run(HF)
    assert code == 1
    assert "arrived damaged" in errors
    assert shell.names() == set()


def test_offline(shell: Shell) -> None:
    code, _, errors = shell.run(HF, HF_ENDPOINT="http://no-such-host.invalid", NO_PROXY="*")
    assert code == 1
    assert "the name no-such-host.invalid is not known here (no network, or no DNS)" in errors
    code, _, errors = shell.run(HF, HF_HUB_OFFLINE="1")
    assert code == 1
    assert "HF_HUB_OFFLINE is set" in errors


def test_offline_what_is_here_has_to_do(shell: Shell, tiny: bytes) -> None:
    shell.hub.add("org/repo", m_gguf=tiny)
    shell.run(HF)
    code, out, errors = shell.run(HF, HF_ENDPOINT="http://127.0.0.1:9")
    assert code == 0
    assert "keeping what is installed" in out
    assert "refuses the connection" in errors


def test_ctrl_c_keeps_what_is_here(shell: Shell, large: bytes) -> None:
    shell.hub.add("org/repo", m_gguf=large)
    shell.hub.hold_after_bytes = 11 * MIB
    with shell.start(HF) as process:
        assert shell.hub.held.wait(60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    shell.hub.hold_after_bytes = None
    shell.hub.go_on.set()
    assert process.returncode == 130
    assert errors == "\nStopped. What is here of the file stays, and the next pull goes on with it.\n"
    [part] = shell.folder.glob("*.part")
    here_bytes = part.stat().st_size
    assert 0 < here_bytes <= 11 * MIB
    assert shell.run(HF)[0] == 0
    assert shell.hub.ranges[-1] == f"bytes={here_bytes}-"
    assert (shell.folder / FILE).read_bytes() == large


def test_two_pulls_of_one_model(shell: Shell, large: bytes) -> None:
    shell.hub.add("org/repo", m_gguf=large)
    shell.hub.hold_after_bytes = 11 * MIB
    with shell.start(HF) as first:
        assert shell.hub.held.wait(60)
        code, _, errors = shell.run(HF)
        shell.hub.go_on.set()
        first.communicate(timeout=60)
    assert code == 1
    assert ".part is being downloaded already, by the service or another pull" in errors
    assert first.returncode == 0
    assert len(shell.hub.ranges) == 1


def test_verify_finds_what_is_whole_damaged_cut_off_and_missing(
    shell: Shell, tiny: bytes, tmp_path: Path
) -> None:
    shell.hub.add("unsloth/Qwen3-1.7B-GGUF", **{"Qwen3-1.7B-Q4_K_M_gguf": tiny})
    shell.hub.add("org/repo", m_gguf=tiny)
    shell.hub.add("nomic-ai/nomic-embed-text-v1.5-GGUF", **{"v1.5.Q8_0_gguf": embedding_model(tmp_path)})
    config = ("--config", str(shell.config))
    assert shell.run("qwen3:1.7b", HF, "nomic-embed-text", *config)[0] == 0
    code, out, errors = shell.run("--verify", "qwen3:1.7b", HF, "nomic-embed-text", *config)
    assert (code, errors, out.count("whole    ")) == (0, "", 3)
    assert "the record of its download" in out
    assert "hf.co/unsloth/Qwen3-1.7B-GGUF/" in out

    flip(shell.folder / FILE)
    cut_off = shell.folder / "nomic-embed-text@latest.gguf"
    cut_off.write_bytes(cut_off.read_bytes()[:-100])
    (shell.folder / "helper.gguf").unlink()
    code, out, errors = shell.run("--verify", *config)
    complaints = {line.split()[1]: line for line in errors.splitlines()}
    assert code == 1
    assert "damaged" in complaints[f"{HF}:latest:"]
    assert complaints[f"{HF}:latest:"].endswith(f"; delete it, and pull {HF}:latest again")
    assert "damaged" in complaints["nomic-embed-text:latest:"]
    assert complaints["qwen3:1.7b:"].startswith("missing")
    assert complaints["big:7b:"].endswith("can be read, but nobody has written down its sha256")

    # The remedy helps.
    (shell.folder / FILE).unlink()
    assert shell.run(HF)[0] == 0
    assert shell.run("--verify", HF)[0] == 0


def test_verify_without_the_hub_says_what_it_cannot_know(shell: Shell, tiny: bytes) -> None:
    shell.folder.mkdir()
    (shell.folder / "helper.gguf").write_bytes(tiny)
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    code, _, errors = shell.run("--verify", "qwen3:1.7b", "--config", str(shell.config), **offline)
    assert code == 1
    assert errors.startswith("unknown  qwen3:1.7b: ")
    assert "its sha256 could not be compared: the hub cannot be reached" in errors


def test_verify_of_what_is_not_installed(shell: Shell) -> None:
    code, _, errors = shell.run("--verify", "qwen3:4b")
    assert code == 1
    assert "model 'qwen3:4b' is not installed; pull qwen3:4b" in errors


def test_the_list(shell: Shell, tiny: bytes) -> None:
    shell.folder.mkdir()
    (shell.folder / "qwen3@4b.gguf").write_bytes(tiny)
    code, out, errors = shell.run("--list", "--config", str(shell.config))
    assert (code, errors) == (0, "")
    states = {line.split()[0]: line.split()[1] for line in out.splitlines() if not line.startswith(" ")}
    assert states["big:7b"] == states["qwen3:4b"] == "present"
    assert states["qwen3:1.7b"] == states["qwen2.5-coder:7b"] == "missing"
    assert "from unsloth/Qwen3-1.7B-GGUF, Qwen3-1.7B-Q4_K_M.gguf" in out
    assert shell.hub.ranges == []
    code, out, errors = shell.run("--list", "--json", "qwen3:4b", "nothing", "--config", str(shell.config))
    assert (code, errors.startswith("nothing is not listed")) == (1, True)
    [listed] = json.loads(out)
    path = str(shell.folder / "qwen3@4b.gguf")
    assert (listed["name"], listed["present"], listed["path"]) == ("qwen3:4b", True, path)
    assert listed["size_bytes"] == len(tiny)


def test_one_of_two_wishes(shell: Shell) -> None:
    code, _, errors = shell.run("--list", "--verify")
    assert code == 2
    assert "--list and --verify: one of them at a time" in errors


def test_on_a_terminal_a_bar_is_drawn(shell: Shell, large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.hub.add("org/repo", m_gguf=large)
    monkeypatch.setenv("HF_ENDPOINT", shell.hub.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    out = Console(file=io.StringIO(), force_terminal=True, width=120)
    command = PullCommand(Catalogue(Settings(models_dir=shell.folder)), out, out)
    assert command.pull([HF]) == 0
    assert isinstance(out.file, io.StringIO)
    drawn = out.file.getvalue()
    assert "━━━━" in drawn
    assert "26.2/26.2 MB" in drawn
    assert "verifying sha256 digest" in drawn


def embedding_model(folder: Path) -> bytes:
    return write_bert(folder / "bert.gguf").read_bytes()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
