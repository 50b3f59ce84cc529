"""The command as a user types it."""

import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import server
from server.cli import COMMANDS
from tests.commands.typed import typed
from tests.running import PROJECT, RunningServer, embedded_config, serving


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "100", **environment},
        check=False,
    )


def test_version_is_the_packages() -> None:
    done = run("version")
    assert (done.returncode, done.stdout) == (0, f"llm-optimizer {server.__version__}\n")


def test_the_pages_show_the_real_help_of_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/help_pages.py", "--check"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example(command: str) -> None:
    done = typed(command, "--help")
    assert done.code == 0
    assert f"Examples:\n    llm-optimizer {command}" in done.out


def test_help_loads_nothing_that_is_slow() -> None:
    slow = ("rich", "httpx2", "fastapi", "llama_cpp", "numpy", "server.config", "server.engine")
    program = (
        "import sys\nfrom server.cli import command_line\n"
        "command_line()(['run', '--help'], standalone_mode=False)\n"
        f"sys.exit(str([name for name in {slow!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Ask a model once" in done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--port", "70000"], {}, ["listen", "70000", "--port"]),
        (["--config", "nowhere.toml"], {}, ["nowhere.toml"]),
        ([], {"STRATEGY_A_MAX": "many"}, ["STRATEGY_A_MAX", "many", "environment", "whole number"]),
        ([], {"LLM_OPTIMIZER_GENERATOR__CONTEX": "1"}, ["LLM_OPTIMIZER_GENERATOR__CONTEXT"]),
    ],
)
def test_a_wrong_setting_ends_with_2_and_names_itself(
    arguments: list[str], environment: dict[str, str], words: list[str]
) -> None:
    done = run("serve", *arguments, **environment)
    assert done.returncode == 2
    assert not done.stdout
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_models_that_cannot_be_loaded_end_with_1_and_their_reasons(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_text("no model at all")
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(bad, helper=tmp_path / "missing.gguf"))
    done = run("serve", "--config", str(config), "--port", "0")
    assert done.returncode == 1
    assert "no model can be loaded" in done.stderr
    assert "is not a GGUF" in done.stderr
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cuda_device_without_a_cuda_build_is_explained(tmp_path: Path, embedded_model: Path) -> None:
    config = tmp_path / "config.toml"
    cuda = {"device": "cuda:0"}
    config.write_text(embedded_config(embedded_model, generator=cuda, helper=cuda))
    done = run("serve", "--config", str(config), "--port", "0")
    assert done.returncode == 1
    assert 'generator.device = "cuda:0", but this llama-cpp-python sees only: CPU' in done.stderr


def test_a_taken_port_ends_with_1_and_no_other_port_is_taken(tmp_path: Path, embedded_model: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(embedded_model))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--config", str(config), "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: another program uses this port" in done.stderr


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_ctrl_c_and_a_second_signal_end_it_cleanly_in_the_middle_of_an_answer(
    tmp_path: Path, embedded_model: Path, numbers: tuple[int, ...]
) -> None:
    with serving(tmp_path, embedded_config(embedded_model)) as running:
        request = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "Tell me a story."}]}
        with running.client() as client, client.stream("POST", "/api/chat", json=request) as response:
            lines = response.iter_lines()
            assert '"done":false' in next(lines)
            for number in numbers[:-1]:
                running.send(number)
                assert '"done":false' in next(lines)
            assert running.stop(numbers[-1]) == 0
            assert list(lines)[-1] in ('{"error":"the model was unloaded"}', '{"error":"request canceled"}')
        assert not [line for line in running.log if "Traceback" in line or "ERROR" in line]


def test_several_addresses_and_file_flags(tmp_path: Path, embedded_model: Path) -> None:
    config = tmp_path / "config.toml"
    text = embedded_config(tmp_path / "missing.gguf")
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]
    config.write_text(f'listen = ["127.0.0.1:{ports[0]}", "127.0.0.1:{ports[1]}"]\n{text}')
    running = RunningServer(
        config, "--generator", str(embedded_model), "--helper", str(embedded_model), port=None
    )
    try:
        with running.client() as client:
            for port in ports:
                answer = client.get(f"http://127.0.0.1:{port}/")
                assert answer.text == "Ollama is running"
            names = {model["name"] for model in client.get("/api/tags").json()["models"]}
        assert names == {"smollm2:135m", "smollm2:135m-helper"}
    finally:
        running.kill()


def test_the_embedded_config_is_valid_and_never_says_qwen() -> None:
    text = (PROJECT / "models" / "embedded.toml").read_text()
    assert "qwen" not in text.casefold()
    assert tomllib.loads(text)["generator"]["name"] == "smollm2:135m"
