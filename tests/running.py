"""The real command in a process of its own, on a free port of the loopback interface."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

PROJECT = Path(__file__).resolve().parents[1]
START_S = 120


def embedded_config(
    model: Path, *, helper: Path | dict[str, Any] | None = None, **tables: dict[str, Any]
) -> str:
    """TOML for the embedded model in both roles, with more keys for ``generator``, ``helper``, ``router``;
    ``helper`` may be just its file."""
    own = helper if isinstance(helper, dict) else {"path": str(helper or model)}
    defaults: dict[str, dict[str, Any]] = {
        "generator": {"name": "smollm2:135m", "path": str(model), "device": "cpu", "context": 8192},
        "helper": {
            "name": "smollm2:135m-helper",
            "path": str(model),
            "device": "cpu",
            "context": 8192,
            "slots": 4,
            **own,
        },
        "router": {"helper_timeout_s": 600.0},
    }
    lines = []
    for table, keys in defaults.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {_toml(value)}" for key, value in {**keys, **tables.get(table, {})}.items()]
    return "\n".join(lines) + "\n"


def _own_models_dir(config: Path) -> dict[str, str]:
    """Models that a developer keeps in the repository are none of a test's, unless it says so."""
    if "models_dir" in config.read_text():
        return {}
    return {"LLM_OPTIMIZER_MODELS_DIR": str(config.absolute().parent / "models")}


def _without_ollamas() -> dict[str, str]:
    """What a developer has set for Ollama is meant for no test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


class RunningServer:
    """``llm-optimizer serve`` as a user starts it. ``log`` grows while it runs; ``folder`` has its config."""

    def __init__(
        self,
        config: Path,
        *arguments: str,
        port: int | None = 0,
        environment: dict[str, str] | None = None,
        module: str = "server",
        waits: bool = True,
        through: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        """``module`` is the program; ``waits`` until it is ready. ``through`` is a command that runs it, and
        ``pass_fds`` are files that it needs."""
        flags = [] if port is None else ["--port", str(port)]
        self.folder = folder = config.absolute().parent
        server = [sys.executable, "-m", module, "serve", "--config", str(config)]
        self._process = subprocess.Popen(
            [*through, *server, *flags, *arguments],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=tuple(pass_fds),
            env={
                # Nothing of a test may stay in the user's folders.
                "LLM_OPTIMIZER_CACHE_DIR": str(folder / "cache"),
                **_own_models_dir(config),
                **(_without_ollamas() if environment is None else environment),
                "PYTHONUNBUFFERED": "1",
            },
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_until_ready() if waits else ""

    def _wait_until_ready(self) -> str:
        url = self._wait_for(r"listening\s+(http://\S+)")
        self._wait_for(r"(Try it:)")
        return url

    def client(self) -> httpx.Client:
        """A client for this server."""
        return httpx.Client(base_url=self.url, timeout=300)

    def logged(self, words: str) -> list[str]:
        """The log lines that contain ``words``."""
        return [line for line in self.log if words in line]

    def resident_bytes(self) -> int:
        """Memory of the process, the model file's pages not counted."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def send(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit code."""
        self._process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        code = self._process.wait(timeout=60)
        self._reader.join(timeout=10)
        return code

    def kill(self) -> None:
        """Make sure that nothing is left."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._reader.join(timeout=10)
            self._process.stdout.close()

    def _read(self) -> None:
        if self._process.stdout:
            for line in self._process.stdout:
                self.log.append(line.rstrip("\n"))

    def _wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for line in list(self.log):
                if found := re.search(pattern, line):
                    return found[1]
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        raise AssertionError("the server did not start:\n" + "\n".join(self.log))


@contextlib.contextmanager
def serving(
    folder: Path,
    config: str,
    environment: dict[str, str] | None = None,
    *,
    module: str = "server",
    waits: bool = True,
) -> Iterator[RunningServer]:
    """A server with this configuration, written into ``folder``, for as long as the block lasts."""
    file = folder / "config.toml"
    file.write_text(config)
    running = RunningServer(file, environment=environment, module=module, waits=waits)
    try:
        yield running
    finally:
        running.kill()
