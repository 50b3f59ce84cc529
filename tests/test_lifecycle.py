"""The real server under a service manager: ready, reloaded, drained, restarted with no refused connection."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running import RunningServer, embedded_config

HANDING_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""As a socket unit starts its service."""


FROM_A_TERMINAL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)
if sys.argv[2] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Manager:
    """systemd's end of the notify socket. ``heard`` grows while the service runs."""

    def __init__(self) -> None:
        self.name = f"llm-optimizer-test-{secrets.token_hex(8)}"
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.name}")
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while message := self._socket.recv(4096):
            self.heard += message.decode().split("\n")

    def close(self) -> None:
        """Listen no longer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", f"\0{self.name}")
        self._socket.close()

    def count(self, start: str) -> int:
        """How many messages begin so."""
        return sum(message.startswith(start) for message in self.heard)


@pytest.fixture
def manager() -> Iterator[Manager]:
    listening = Manager()
    yield listening
    listening.close()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def chat(**body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me a very long story."}]
    return {"model": "smollm2:135m", "messages": messages, **body}


@contextlib.contextmanager
def story(client: httpx.Client, tokens: int) -> Iterator[Iterator[str]]:
    """The lines of an answer of so many tokens, which has begun."""
    options = {"num_predict": tokens, "temperature": 0}
    with client.stream("POST", "/api/chat", json=chat(options=options)) as response:
        lines = response.iter_lines()
        assert '"done":false' in next(lines)
        yield lines


def test_a_service_is_ready_reloads_and_drains(
    manager: Manager, tmp_path: Path, embedded_model: Path
) -> None:
    config = tmp_path / "config.toml"
    text = embedded_config(embedded_model)
    config.write_text(text)
    running = RunningServer(
        config, environment={"NOTIFY_SOCKET": f"@{manager.name}", "WATCHDOG_USEC": "400000"}
    )
    try:
        until(lambda: manager.count("STATUS=Ready: 2 models loaded"))
        assert manager.heard.index("READY=1") > manager.heard.index("STATUS=Starting")
        assert "llm-optimizer" in running.log[-1] or "curl" in running.log[-1]
        until(lambda: manager.count("WATCHDOG=1") > 2)
        with running.client() as client:
            _reloads(running, client, manager, config, text)
            _drains(running, client, manager)
        assert not [line for line in running.log if "Traceback" in line]
    finally:
        running.kill()


def _reloads(running: RunningServer, client: httpx.Client, manager: Manager, config: Path, text: str) -> None:
    def reason() -> str:
        return str(client.post("/api/router/explain", json=chat()).json()["reason"])

    assert "STRATEGY_A_MAX = 2000" in reason()
    with story(client, 100) as lines:
        config.write_text(text.replace("[router]", "[router]\nstrategy_a_max = 1000\nsummaries_mib = 1"))
        running.send(signal.SIGHUP)
        until(lambda: running.logged("only after a restart: router.summaries_mib = 1 (was 64)"))
        until(lambda: manager.heard.count("READY=1") == 2)
        assert json.loads(list(lines)[-1])["done"] is True
    told = manager.heard[manager.heard.index("RELOADING=1") :]
    assert re.fullmatch(r"MONOTONIC_USEC=\d+", told[1])
    assert "READY=1" in told[2:]
    assert "STRATEGY_A_MAX = 1000" in reason()
    config.write_text(text.replace("[router]", '[router]\nstrategy_a_max = "few"'))
    running.send(signal.SIGHUP)
    until(lambda: running.logged("all stays as it was"))
    [line] = running.logged("all stays as it was")
    assert "ERROR" in line
    assert 'strategy_a_max = "few"' in line
    assert "STRATEGY_A_MAX = 1000" in reason()


def _drains(running: RunningServer, client: httpx.Client, manager: Manager) -> None:
    with story(client, 200) as lines:
        running.send(signal.SIGTERM)
        until(lambda: manager.count("STATUS=Stopping: 1 answer under way"))
        assert "STOPPING=1" in manager.heard
        for route, place in (("/api/chat", ("error",)), *((f"/v1/{n}", ("error", "message")) for n in _V1)):
            refused = client.post(route, json=chat(max_tokens=5))
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            assert refused.headers["connection"] == "close"
            told = refused.json()
            for key in place:
                told = told[key]
            assert "the service is stopping" in told
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["stopping"]) == (503, True)
        assert client.get("/").text == "Ollama is running"
        running.send(signal.SIGHUP)
        rest = list(lines)
    assert json.loads(rest[-1])["done"] is True
    assert json.loads(rest[-1])["eval_count"] > 100
    assert running.stop(0) == 0
    assert running.logged("SIGHUP: nothing is reloaded")
    assert not running.logged("cut off")


_V1 = ("chat/completions", "messages")


def test_a_socket_unit_keeps_connections_and_a_limit_ends_answers(
    tmp_path: Path, embedded_model: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("drain_s = 1\n" + embedded_config(embedded_model))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        running = RunningServer(
            config,
            port=None,
            through=[sys.executable, "-c", HANDING_OVER, str(listener.fileno())],
            pass_fds=[listener.fileno()],
        )
        try:
            assert running.url == f"http://127.0.0.1:{port}"
            [warning] = running.logged("listen =")
            assert (
                f'listens on ["127.0.0.1:{port}"], and listen = ["127.0.0.1:8512"] has no effect' in warning
            )
            with running.client() as client, story(client, 4000) as lines:
                running.send(signal.SIGTERM)
                until(lambda: running.logged("no new requests"))
                # It waits for the next process, instead of being refused.
                with socket.create_connection(("127.0.0.1", port)):
                    rest = list(lines)
                    assert running.stop(0) == 0
            assert json.loads(rest[-1]) == {"error": "the model was unloaded"}
            assert running.logged("answers cut off that took longer than drain_s = 1: 1")
            assert not [line for line in running.log if "Traceback" in line]
        finally:
            running.kill()


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_ends_what_was_started_from_it(
    tmp_path: Path, embedded_model: Path, nohup: bool
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(embedded_model, helper={"preload": False}))
    master, slave = os.openpty()
    how = "nohup" if nohup else "plain"
    running = RunningServer(
        config, through=[sys.executable, "-c", FROM_A_TERMINAL, str(slave), how], pass_fds=[slave]
    )
    try:
        running.send(signal.SIGHUP)
        until(lambda: running.logged("reload: no setting has changed"))
        os.close(slave)
        os.close(master)
        if nohup:
            with running.client() as client:
                assert client.get("/health").status_code == 200
            assert running.stop(signal.SIGINT) == 0
        else:
            assert running.stop(0) == 0
        assert bool(running.logged("the terminal is gone")) is not nohup
    finally:
        running.kill()
