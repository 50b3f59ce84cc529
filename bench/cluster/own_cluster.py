"""A cluster of processes on this machine, as ``python -m server.cluster run`` starts it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from bench.servers import NOT_INHERITED, PROJECT, CannotStart, free_port

HOST = "127.0.0.1"
MODEL = "bench:tiny"
SLOTS = 8
START_S = 180
STOP_S = 90
POLL_S = 0.1

_SERVICE = "ray::ServeReplica:llm-optimizer:Service"
_WAY_IN = ("ray::ServeReplica:llm-optimizer:Ingress", "ray::ProxyActor")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def settings(model: Path, cache: Path) -> str:
    """The TOML of every replica. Nothing is shortened: what is measured here is reading."""
    return f"""
cache_dir = "{cache}"
models_dir = "{cache}"
[generator]
name = "{MODEL}"
path = "{model}"
device = "cpu"
context = 8192
slots = {SLOTS}
[helper]
name = "{MODEL}-helper"
path = "{model}"
device = "cpu"
preload = false
[router]
strategy_a_max = 1048576
strategy_b_max = 1048576
"""


class OwnCluster:
    """The process and what it has started."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.url = url
        self._process = process
        self._log = log

    def service_pids(self) -> list[int]:
        """The processes with models in them."""
        return self._pids(_SERVICE)

    def way_in_cpu_s(self) -> float:
        """What proxies and ingresses have used of the processor."""
        return sum(_cpu_s(pid) for pid in self._pids(*_WAY_IN))

    def wait_for(self, words: str) -> None:
        """Until the log has this line.

        Raises:
            CannotStart: the process has ended, or it takes too long.
        """
        deadline_s = time.monotonic() + START_S
        while words not in self._text():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise CannotStart(f"the cluster does not get to {words!r}:\n{self._text()[-3000:]}")
            time.sleep(POLL_S)

    def replace_all(self) -> None:
        """Begin to replace all replicas, one after the other."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> Self:
        """End everything, and wait for it."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in (*self._children(), self._process.pid):
                os.kill(pid, signal.SIGKILL)
            self._process.wait()
        return self

    def _text(self) -> str:
        return self._log.read_text(errors="replace")

    def _pids(self, *names: str) -> list[int]:
        return [pid for pid in self._children() if _command(pid).startswith(names)]

    def _children(self) -> list[int]:
        """All processes below ours, wherever."""
        parents = dict(_parents())
        found, before = {self._process.pid}, 0
        while len(found) > before:
            before = len(found)
            found |= {pid for pid, parent in parents.items() if parent in found}
        return sorted(found - {self._process.pid})


@contextmanager
def own_cluster(model: Path, policy: str, *, replicas: int = 2, ingresses: int = 2) -> Iterator[OwnCluster]:
    """A running cluster for as long as the block lasts.

    Raises:
        CannotStart: with the end of its log.
    """
    # Ray's sockets lie below this folder, and their names must be short.
    with tempfile.TemporaryDirectory(prefix="lo-") as folder:
        config, log, port = Path(folder, "config.toml"), Path(folder, "log"), free_port()
        config.write_text(settings(model.absolute(), Path(folder, "cache")))
        command = [sys.executable, "-m", "server.cluster", "run", "--config", str(config)]
        command += ["--listen", f"{HOST}:{port}", "--policy", policy, "--temp-dir", f"{folder}/r"]
        command += ["--replicas", str(replicas), "--ingresses", str(ingresses)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=PROJECT, stdout=out, stderr=subprocess.STDOUT, env=kept)
        cluster = OwnCluster(process, f"http://{HOST}:{port}", log)
        try:
            cluster.wait_for("listening  http")
            yield cluster
        finally:
            cluster.stop()


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = Path(folder, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            yield int(folder.name), int(fields[1])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
