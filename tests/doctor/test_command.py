"""``llm-optimizer doctor`` as a user runs it, on this machine, with faults planted one by one."""

import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.tiny_models import write_llama
from server.doctor.check import Status
from tests.gpu.fake_nvml import FakeNvml, compile_fake_nvml
from tests.running import PROJECT, RunningServer, embedded_config, serving

GPU_BUILD = """
import llama_cpp.llama_cpp as binding
binding.llama_print_system_info = lambda: b"CUDA : ARCHS = {architectures} | CPU : AVX2 = 1 | "
import server.engine.llamacpp.library as library
library.has_gpu = lambda: True
"""
DYING = """
import os
import llama_cpp.llama_cpp as binding
binding.llama_decode = lambda *_: os.kill(os.getpid(), 11)
"""
SYSTEMCTL = """#!/bin/sh
case "$1" in
  show) echo LoadState={load}; echo ActiveState={active}; echo SubState={sub}; echo UnitFileState=enabled
        echo Result=exit-code; echo NRestarts=0 ;;
  list-units) {ollama} ;;
esac
"""


@dataclass(frozen=True)
class Seen:
    """What a run told."""

    code: int
    report: dict[str, Any]

    def check(self, name: str, subject: str | None = None) -> dict[str, Any]:
        return next(
            check for check in self.report["checks"] if (check["name"], check["subject"]) == (name, subject)
        )

    @property
    def faults(self) -> list[str]:
        """Name and subject of each fault."""
        faults = [check for check in self.report["checks"] if check["status"] == "fault"]
        return [f"{check['name']} {check['subject'] or ''}".strip() for check in faults]


class Patient:
    """A folder with a configuration over a tiny model, and an environment in which the doctor runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "models").mkdir()
        self.model = write_llama(folder / "models" / "tiny.gguf")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")},
            "LLM_OPTIMIZER_CACHE_DIR": str(folder / "cache"),
            "PYTHONPATH": str(PROJECT),
        }

    def config(self, top: str = "", **tables: Any) -> Path:
        file = self.folder / "config.toml"
        listen = f'listen = ["127.0.0.1:{self.port}"]\nmodels_dir = "models"\n{top}'
        file.write_text(listen + embedded_config(self.model, **tables))
        return file

    def without_driver(self) -> None:
        """A library that cannot be loaded hides the real one, should this machine have one."""
        (self.folder / "libnvidia-ml.so.1").write_text("no library")
        self.environment["LD_LIBRARY_PATH"] = str(self.folder)

    def patched(self, program: str) -> None:
        """Run this in every Python process before anything else, as a fault of the build."""
        site = self.folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(program)
        self.environment["PYTHONPATH"] = f"{site}:{PROJECT}"

    def systemctl(self, *, load: str = "not-found", active: str = "inactive", ollama: str = "true") -> None:
        tools = self.folder / "tools"
        tools.mkdir()
        program = tools / "systemctl"
        program.write_text(SYSTEMCTL.format(load=load, active=active, sub=active, ollama=ollama))
        program.chmod(0o755)
        self.environment["PATH"] = f"{tools}:{os.environ['PATH']}"

    def run(self, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "server", "doctor", "--config", str(config), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def examined(self, config: Path, *arguments: str) -> Seen:
        done = self.run(config, "--json", *arguments)
        assert done.stderr == ""
        return Seen(done.returncode, json.loads(done.stdout))


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    patient = Patient(tmp_path)
    patient.without_driver()
    return patient


@pytest.fixture
def fake_nvml(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> FakeNvml:
    return FakeNvml(compile_fake_nvml(tmp_path_factory.mktemp("nvml")), tmp_path / "script")


def test_on_this_machine_with_the_embedded_model_all_is_well(embedded_model: Path, patient: Patient) -> None:
    patient.environment["LLM_OPTIMIZER_LISTEN"] = f"127.0.0.1:{patient.port}"
    done = patient.run(PROJECT / "models" / "embedded.toml")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "\x1b" not in done.stdout
    assert not [line for line in lines if line.startswith("fault")]
    told = next(line for line in lines if " decode CPU " in line)
    assert told.startswith("ok")
    assert "sha256 as in" in next(line for line in lines if " model generator " in line)
    columns = next(line for line in lines if line.startswith("role")).split()
    row = next(line for line in lines if line.startswith("generator")).split()
    assert dict(zip(columns, row, strict=True)) | {"free": ""} == {
        **{"role": "generator", "model": "smollm2:135m", "device": "cpu", "context": "8192"},
        **{"weights": "93", "KV": "180", "compute": "37", "margin": "256", "total": "565"},
        **{"free": "", "fits": "yes"},
    }
    assert lines[-1].startswith("0 faults, ")


def test_the_json_has_what_is_promised(patient: Patient) -> None:
    patient.systemctl()
    seen = patient.examined(patient.config())
    assert (seen.code, seen.faults) == (0, [])
    assert {key: seen.report[key] for key in ("schema", "status")} == {"schema": 1, "status": "ok"}
    assert [(check["name"], check["subject"]) for check in seen.report["checks"]] == [
        ("settings", None),
        ("binding", None),
        ("build", None),
        ("offload", None),
        ("driver", None),
        ("decode", "CPU"),
        ("model", "generator"),
        ("model", "helper"),
        ("plan", "generator"),
        ("plan", "helper"),
        ("port", f"127.0.0.1:{patient.port}"),
        ("crashes", None),
        ("keys", None),
        ("unit", None),
        ("ollama", None),
        ("cache_dir", None),
        ("models_dir", None),
    ]
    for check in seen.report["checks"]:
        assert check.keys() == {"name", "subject", "status", "found", "remedy"}
        assert check["status"] in set(Status)
    assert [planned["fits"] for planned in seen.report["plan"]] == [True, True]
    assert seen.report["plan"][0]["total_bytes"] > 0


def test_a_wrong_configuration_ends_with_2(patient: Patient) -> None:
    config = patient.folder / "wrong.toml"
    config.write_text("listen = 5\n")
    done = patient.run(config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "listen" in done.stderr


class _Ollama(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/api/version"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(b'{"version": "0.12.0"}' if known else b"404 page not found")

    def log_message(self, *_: Any) -> None:
        pass


def test_a_missing_and_a_truncated_model(patient: Patient) -> None:
    short = patient.folder / "short.gguf"
    short.write_bytes(patient.model.read_bytes()[:-1000])
    missing = str(patient.folder / "missing.gguf")
    seen = patient.examined(patient.config(generator={"path": str(short)}, helper={"path": missing}))
    assert (seen.code, seen.faults) == (1, ["model generator", "model helper"])
    assert "truncated" in seen.check("model", "generator")["found"]
    assert "does not exist" in seen.check("model", "helper")["found"]
    assert [seen.check("plan", role)["status"] for role in ("generator", "helper")] == ["warning"] * 2


def test_a_wrong_sha256_and_a_unit_that_failed(patient: Patient) -> None:
    patient.model.with_name("SHA256SUMS").write_text(f"{'0' * 64}  tiny.gguf\n")
    patient.systemctl(load="loaded", active="failed")
    seen = patient.examined(patient.config(), "--verify")
    assert (seen.code, seen.faults) == (1, ["model generator", "model helper", "unit"])
    assert "it should be 000" in seen.check("model", "generator")["found"]
    assert [seen.check("plan", role)["status"] for role in ("generator", "helper")] == ["ok"] * 2


def test_a_plan_that_does_not_fit_and_a_port_that_ollama_has(patient: Patient) -> None:
    config = patient.config(generator={"memory_margin_mib": 1_000_000})
    with http.server.ThreadingHTTPServer(("127.0.0.1", patient.port), _Ollama) as ollama:
        threading.Thread(target=ollama.serve_forever, daemon=True).start()
        seen = patient.examined(config)
        ollama.shutdown()
    subject = f"127.0.0.1:{patient.port}"
    assert (seen.code, seen.faults) == (1, ["plan generator", f"port {subject}"])
    check = seen.check("plan", "generator")
    assert "margin 1000000) but" in check["found"]
    assert check["remedy"].startswith("lower generator.context")
    assert seen.report["plan"][0]["fits"] is False
    assert seen.check("port", subject)["found"] == "an Ollama runs here"


def test_a_port_that_another_program_has(patient: Patient) -> None:
    config = patient.config()
    with socketserver.TCPServer(("127.0.0.1", patient.port), socketserver.BaseRequestHandler) as silent:
        threading.Thread(target=silent.serve_forever, daemon=True).start()
        seen = patient.examined(config)
        silent.shutdown()
    subject = f"127.0.0.1:{patient.port}"
    assert (seen.code, seen.faults) == (1, [f"port {subject}"])
    assert "another program" in seen.check("port", subject)["found"]


@pytest.fixture
def running(patient: Patient) -> Iterator[RunningServer]:
    config = embedded_config(patient.model, helper={"preload": False})
    with serving(patient.folder, config, patient.environment) as server:
        patient.port = int(server.url.rpartition(":")[2])
        yield server


def test_a_running_service_is_no_fault_and_is_left_in_peace(patient: Patient, running: RunningServer) -> None:
    seen = patient.examined(patient.config(generator={"memory_margin_mib": 1_000_000}))
    assert (seen.code, seen.faults) == (0, [])
    assert seen.check("port", f"127.0.0.1:{patient.port}")["found"] == "an llm-optimizer runs here"
    assert "is loaded on cpu" in seen.check("plan", "generator")["found"]
    assert "is not loaded" in seen.check("plan", "helper")["found"]
    assert [(row["loaded"], row["fits"]) for row in seen.report["plan"]] == [(True, None), (False, None)]
    assert running.stop() == 0


def test_a_build_that_dies_while_it_decodes(patient: Patient) -> None:
    patient.patched(DYING)
    seen = patient.examined(patient.config())
    assert (seen.code, seen.faults) == (1, ["decode CPU"])
    assert "dies of SIGSEGV" in seen.check("decode", "CPU")["found"]
    assert "GGML_NATIVE=OFF" in seen.check("decode", "CPU")["remedy"]


def test_a_build_that_dies_when_it_is_loaded(patient: Patient) -> None:
    broken = patient.folder / "broken" / "llama_cpp"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import os\nos.kill(os.getpid(), 4)\n")
    patient.environment["PYTHONPATH"] = f"{broken.parent}:{PROJECT}"
    seen = patient.examined(patient.config())
    assert (seen.code, seen.faults) == (1, ["binding"])
    assert "loading it dies of SIGILL" in seen.check("binding")["found"]


def test_a_build_without_offload_under_a_cuda_device(patient: Patient) -> None:
    seen = patient.examined(patient.config(generator={"device": "cuda:0"}))
    assert seen.code == 1
    assert seen.faults == ["offload", "driver", "plan generator"]
    assert 'generator.device = "cuda:0", but' in seen.check("offload")["found"]
    assert "make cuda" in seen.check("offload")["remedy"]
    assert "libnvidia-ml.so.1 not found" in seen.check("driver")["found"]


def test_two_cards_that_the_build_has_no_code_for(patient: Patient, fake_nvml: FakeNvml) -> None:
    patient.environment |= {
        name: value for name, value in fake_nvml.environment().items() if name != "PYTHONPATH"
    }
    patient.patched(GPU_BUILD.format(architectures="860,890"))
    seen = patient.examined(patient.config(generator={"device": "cuda:0"}))
    assert seen.code == 1
    assert {"card 0", "card 1"} <= set(seen.faults)
    assert seen.check("driver")["found"] == "NVIDIA 580.95.05, CUDA up to 13.0"
    assert "7.5" in seen.check("card", "0")["found"]
    assert "code for 8.6 8.9 only" in seen.check("card", "1")["found"]
    assert "CUDA 12" in seen.check("card", "1")["remedy"]
    assert 'ARCHITECTURES="61;75"' in seen.check("card", "1")["remedy"]


def test_two_cards_that_it_has_code_for(patient: Patient, fake_nvml: FakeNvml) -> None:
    patient.environment |= {
        name: value for name, value in fake_nvml.environment().items() if name != "PYTHONPATH"
    }
    patient.patched(GPU_BUILD.format(architectures="610,750"))
    seen = patient.examined(patient.config())
    assert (seen.code, seen.faults) == (0, [])
    assert "2043 of 2048 MiB free" in seen.check("card", "1")["found"]


def test_warnings_are_no_faults(patient: Patient) -> None:
    patient.environment["LLM_OPTIMIZER_CACHE_DIR"] = str(patient.model / "cache")
    patient.systemctl(ollama='echo "ollama.service loaded active running Ollama Service"')
    seen = patient.examined(patient.config())
    assert (seen.code, seen.report["status"]) == (0, "warning")
    assert (seen.check("cache_dir")["status"], seen.check("ollama")["status"]) == ("warning", "warning")
    assert "Not a directory" in seen.check("cache_dir")["found"]
    assert seen.check("ollama")["remedy"] == "systemctl disable --now ollama.service"


def test_the_doctor_itself_never_loads_llama_cpp() -> None:
    program = "import sys, server.doctor.examination, server.doctor.report; print('llama_cpp' in sys.modules)"
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    assert told.stdout == "False\n"
