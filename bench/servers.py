"""The two servers as processes: how they are started, asked, weighed and ended."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from bench.client import HOST, Client, ConnectionBroke, NotReady
from bench.wire import MODEL_NAME, Answer, LlamaCpp, Ollama, Request

PROJECT = Path(__file__).resolve().parents[1]
SLOTS = 8
START_S = 120
STOP_S = 60
POLL_S = 0.005
LOG_BYTES_SHOWN = 3000

# Each server is to have its own defaults. Importing the engine sets GOMP_SPINCOUNT for this process, too.
NOT_INHERITED = ("GOMP_", "OMP_", "LLM_OPTIMIZER_", "LLAMA_ARG_", "STRATEGY_", "MAX_CTX_SIZE")
"""How the names begin of environment variables that the servers do not get."""


class CannotStart(Exception):
    """A server did not come up; the text holds the end of its log."""


@dataclass(frozen=True)
class Setup:
    """What both servers are given alike."""

    model: Path
    context_tokens: int
    threads: int
    folder: Path


class Server:
    """A server process on a free port. Entering starts it and waits for its first answer."""

    def __init__(self, name: str, command: Sequence[str], port: int, client: Client, log: Path) -> None:
        self.name = name
        self.client = client
        self.first_answer_s = 0.0
        self._command = command
        self._port = port
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        try:
            self.first_answer_s = await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the process as a user would, and wait until it is gone."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def own_bytes(self) -> int:
        """Resident memory that is no page of a file: the mapped model does not count.

        Raises:
            CannotStart: the process is gone.
        """
        if self._process is None:
            raise CannotStart(f"{self.name} was never started")
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", status, re.M))

    async def _start(self) -> float:
        started_s = perf_counter()
        self._process = self._spawn()
        answer = await self._first_answer(self._process)
        return answer.ended_s - started_s

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)
        }
        with self._log.open("wb") as log:
            return subprocess.Popen(
                self._command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    async def _first_answer(self, process: subprocess.Popen[bytes]) -> Answer:
        deadline_s = perf_counter() + START_S
        while perf_counter() < deadline_s and process.poll() is None:
            try:
                return await self.client.ask_whatever_length(Request("1, 2, 3, 4,", 2))
            except (NotReady, ConnectionBroke):
                await asyncio.sleep(POLL_S)
        shown = self._log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace")
        raise CannotStart(f"{self.name} does not answer; the end of its log:\n{shown}")


def our_server(setup: Setup, cache: Path | None = None) -> Server:
    """This service. ``cache`` is its folder for what outlives a restart; None: a new one."""
    folder = _new_folder(setup.folder, "ours")
    config = folder / "config.toml"
    config.write_text(our_settings(setup, cache or folder / "cache"))
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--config", str(config)]
    command += ["--host", HOST, "--port", str(port)]
    return Server("llm-optimizer", command, port, Client(port, Ollama()), folder / "log")


def our_settings(setup: Setup, cache: Path) -> str:
    """The TOML for a generator alone: the helper is not loaded, and no chat goes through it."""
    size = {"device": "cpu", "context": setup.context_tokens, "threads": setup.threads}
    generator = {"name": MODEL_NAME, "path": str(setup.model), **size, "slots": SLOTS}
    helper = {"name": "bench:helper", "path": str(setup.model), "device": "cpu", "preload": False}
    router = {"strategy_a_max": 1_048_576, "strategy_b_max": 1_048_576}
    tables: dict[str, dict[str, Any]] = {"generator": generator, "helper": helper, "router": router}
    lines = [_toml("cache_dir", str(cache))]
    for table, keys in tables.items():
        lines += ["", f"[{table}]", *(_toml(key, value) for key, value in keys.items())]
    return "\n".join(lines) + "\n"


def llama_server(binary: Path, setup: Setup, *flags: str) -> Server:
    """llama.cpp's server with its defaults and ``flags``.

    All slots share one KV cache, as ours do; with --parallel given it would otherwise be cut into
    eight parts, and a long prompt would fit into none.
    """
    folder = _new_folder(setup.folder, "llama-server")
    port = free_port()
    command = [str(binary), "--model", str(setup.model), "--host", HOST, "--port", str(port)]
    command += ["--ctx-size", str(setup.context_tokens), "--threads", str(setup.threads)]
    command += ["--parallel", str(SLOTS), "--kv-unified", *flags]
    return Server("llama-server", command, port, Client(port, LlamaCpp()), folder / "log")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port: int = taken.getsockname()[1]
        return port


def _new_folder(parent: Path, name: str) -> Path:
    number = sum(1 for _ in parent.iterdir())
    folder = parent / f"{number:03}-{name}"
    folder.mkdir()
    return folder


def _toml(key: str, value: str | int | bool) -> str:
    # JSON writes text, numbers and truth values as TOML does.
    return f"{key} = {json.dumps(value)}"
