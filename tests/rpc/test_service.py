"""A service whose generator is split over two rpc servers, and what it does when one of them goes."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.service.rpc_loss import EXIT_STATUS
from tests.api.asking import eventually
from tests.rpc.hosts import Host, hosts
from tests.running import PROJECT, RunningServer, embedded_config

BIG, SMALL = "smollm2:135m", "smollm2:135m-helper"
COUNT = "Count to a thousand, one by one: 1, 2, 3,"
LITTLE = {"context": 1024, "slots": 1, "batch": 128, "threads": 1, "memory_margin_mib": 16}


@pytest.fixture(scope="module")
def two() -> Iterator[list[Host]]:
    with hosts(2) as started:
        yield started


class Machine:
    """Where the service is started again and again."""

    def __init__(self, folder: Path, model: Path, two: list[Host], **generator: Any) -> None:
        self.devices = ["cpu", *(host.device for host in two)]
        split = f"devices = {json.dumps(self.devices)}\n"
        config = embedded_config(
            model, generator={**LITTLE, **generator}, helper={**LITTLE, "path": str(model)}
        )
        self._config = folder / "config.toml"
        self._config.write_text(config.replace('device = "cpu"\n', split, 1))
        self.running: list[RunningServer] = []

    def start(self) -> RunningServer:
        self.running.append(RunningServer(self._config))
        return self.running[-1]


@pytest.fixture
def machine(tmp_path: Path, embedded_model: Path, two: list[Host]) -> Iterator[Machine]:
    # Long enough for a busy machine, which is not to be taken for a lost one.
    used = Machine(tmp_path, embedded_model, two, rpc_patience_s=20)
    yield used
    for server in used.running:
        server.kill()


def ask(
    server: RunningServer, model: str, question: str = "What is rain?", tokens: int = 8
) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "stream": False,
        "options": {"temperature": 0, "num_predict": tokens},
    }
    with server.client() as client:
        return client.post("/api/chat", json=body)


class Answer:
    """One that is being read while something happens."""

    def __init__(self, server: RunningServer) -> None:
        self.lines: list[str] = []
        self.begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(server,))
        self._thread.start()
        assert self.begun.wait(60)

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _read(self, server: RunningServer) -> None:
        body = {"model": BIG, "messages": [{"role": "user", "content": COUNT}], "options": {"temperature": 0}}
        try:
            with server.client() as client, client.stream("POST", "/api/chat", json=body) as response:
                for line in response.iter_lines():
                    self.lines.append(line)
                    self.begun.set()
        except httpx.TransportError as error:
            self.lines.append(repr(error))


def test_a_server_killed_in_mid_answer_is_reported_and_comes_back(machine: Machine, two: list[Host]) -> None:
    service, gone = machine.start(), two[1]
    before = ask(service, BIG).json()["message"]["content"]
    assert before == ask(service, SMALL).json()["message"]["content"], "split as on one machine"
    answer = Answer(service)
    gone.kill()
    assert service.end() == EXIT_STATUS
    answer.end()
    assert json.loads(answer.lines[0])["done"] is False
    last = service.log[-1]
    assert f"CRITICAL {gone.device} is lost: " in last
    assert last.endswith("the service ends, and its supervisor starts it again")

    again = machine.start()
    told = f"the service ended while {BIG} was split over {two[0].device}, {gone.device}"
    away = f"{gone.device} cannot be reached: connection refused"
    [line] = again.logged("WARNING the service ended")
    assert told in line
    assert away in line
    with again.client() as client:
        assert client.get("/health").json()["lost"][BIG].startswith(told)
        assert told in client.get("/health/gpu").json()["recent_faults"][0]["text"]
        assert client.get("/health/ready").json()["not_loaded"] == [BIG]
    refused = ask(again, BIG)
    assert (refused.status_code, away in refused.json()["error"]) == (500, True)
    assert ask(again, SMALL).status_code == 200, "the others answer"

    gone.start()
    assert ask(again, BIG).json()["message"]["content"] == before
    with again.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
    assert again.stop() == 0


@pytest.mark.slow
def test_a_server_that_falls_silent_is_not_waited_for(machine: Machine, two: list[Host]) -> None:
    service = machine.start()
    answer = Answer(service)
    two[0].send(signal.SIGSTOP)
    try:
        assert service.end() == EXIT_STATUS
    finally:
        two[0].send(signal.SIGCONT)
    answer.end()
    assert f"{BIG} makes no step over {two[0].device}, {two[1].device} after" in service.log[-1]


def test_a_server_lost_while_nobody_asks_is_noticed(machine: Machine, two: list[Host]) -> None:
    service = machine.start()
    two[0].kill()
    assert service.end() == EXIT_STATUS
    two[0].start()
    assert service.logged(
        f"ERROR   {two[0].device} is lost: it has closed the connection; {BIG} cannot answer"
    )
    again = machine.start()
    assert ask(again, BIG).status_code == 200
    assert eventually(lambda: again.logged("now all of them answer"))


def test_the_split_is_told_and_leaves_no_note_when_the_model_goes(machine: Machine, two: list[Host]) -> None:
    service = machine.start()
    with service.client() as client:
        [big] = [model for model in client.get("/api/ps").json()["models"] if model["name"] == BIG]
        assert [part["device"] for part in big["split"]] == machine.devices
        assert sum(part["layers"] for part in big["split"]) == 31
        assert big["size_vram"] == sum(part["bytes"] for part in big["split"][1:])
        command = [sys.executable, "-m", "server", "ps", "--url", service.url]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT).stdout
        assert f"{BIG} is split: " in shown
        assert f"layers on {two[1].device}" in shown
        models = client.get("/health/gpu").json()["models"]
        assert [model["split"] is None for model in models if model["name"] != BIG] == [True]
        notes = service.folder / "cache" / "crashes"
        assert list(notes.glob("split-*.json"))
        client.post("/api/generate", json={"model": BIG, "options": {"num_ctx": 4096}})
        assert eventually(
            lambda: service.logged("the window of a model that several devices share does not grow")
        )
        client.post("/api/generate", json={"model": BIG, "keep_alive": 0})
        assert eventually(lambda: not list(notes.glob("split-*.json")))
    assert ask(service, BIG).status_code == 200
    assert eventually(lambda: service.logged(f"{BIG} loaded on cpu "))
    assert service.stop() == 0
    assert list(notes.iterdir()) == []


def test_nothing_of_it_is_imported_on_one_machine(embedded_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(embedded_config(embedded_model, generator=LITTLE))
    program = (
        "import sys; from pathlib import Path; from server.app import build_service; "
        "from server.config import load_settings; "
        f"build_service(load_settings(Path({str(tmp_path / 'config.toml')!r}), {{}}, {{}})); "
        "import server.serve; print(*sorted(sys.modules))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT, env=environment)
    modules = set(done.stdout.split())
    assert "server.service.placement" in modules
    far = {"rpc", "splitting", "rpc_servers", "rpc_loss"}
    assert not modules & {f"server.service.{name}" for name in far}
    assert not modules & {"server.engine.rpc", "server.gpu.split", "server.engine.llamacpp.rpc_devices"}
    assert not modules & {"server.engine.llamacpp.split", "server.doctor.rpc"}
    assert not modules & {
        "server.remote",
        "server.service.clients",
        "server.doctor.remote",
        "server.cluster",
        "ray",
    }
