"""The service under test: a process of its own, asked over HTTP."""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.gpu_check.parts import Clock, Faulty
from bench.servers import NOT_INHERITED, PROJECT

START_S, STOP_S, UNLOAD_S = 90, 30, 30
POLL_S = 0.1
SHOWN_BYTES, SHOWN_LINES = 2000, 10
TEXT = "the river runs past a small town where people read old books and ask what time will bring"
WORDS = TEXT.split()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the last object of an answer says. Rates are tokens a second."""

    tokens: int
    prompt_rate: float
    rate: float


class Refused(Faulty):
    """The service said no; the text has status and error. Where no one expects it, it is a fault."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(f"{status}: {error}")
        self.status = status
        self.error = error


class Service:
    """A running service. Requests from any thread."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]", log: Path, clock: Clock) -> None:
        self.url = url
        self.process = process
        self._log = log
        self._clock = clock
        self._numbers = itertools.count()

    def client(self) -> httpx.Client:
        """A connection of one's own."""
        return httpx.Client(base_url=self.url, timeout=self._clock.left_s)

    def ask(self, model: str, prompt_tokens: int, tokens: int) -> Answer:
        """Read about so many new tokens, generate at most so many. Raises Refused."""
        body = {
            "model": model,
            "prompt": new_prompt(next(self._numbers), prompt_tokens),
            "raw": True,
            "stream": False,
            "options": {"num_predict": tokens, "temperature": 0},
        }
        said = self._post("/api/generate", body)
        read = said["prompt_eval_count"] - said["llm_optimizer"]["tokens_cached"]
        return Answer(
            tokens=said["eval_count"],
            prompt_rate=_rate(read, said["prompt_eval_duration"]),
            rate=_rate(said["eval_count"], said["eval_duration"]),
        )

    def unload(self, model: str) -> None:
        """Have the model leave, and wait until it is gone. Raises Faulty if it stays."""
        self._post("/api/generate", {"model": model, "keep_alive": 0, "stream": False})
        end_s = time.monotonic() + UNLOAD_S
        while model in self.loaded():
            if time.monotonic() > end_s:
                raise Faulty(f"{model} is still loaded after {UNLOAD_S} s")
            time.sleep(POLL_S)

    def loaded(self) -> dict[str, Mapping[str, Any]]:
        """What ``/api/ps`` tells of each model."""
        return {model["name"]: model for model in self.get("/api/ps").json()["models"]}

    def get(self, path: str) -> httpx.Response:
        """Any route."""
        with self.client() as client:
            return client.get(path)

    def must_live(self) -> None:
        """Raises Faulty, with the end of the log, where the process has ended."""
        if self.process.poll() is not None:
            raise Faulty(f"the service has died with {self.process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, on one line."""
        return " / ".join(self._log.read_text(errors="replace")[-SHOWN_BYTES:].splitlines()[-SHOWN_LINES:])

    def stop(self) -> int:
        """End it as a user does; its exit code. Raises subprocess.TimeoutExpired."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with self.client() as client:
                response = client.post(path, json=body)
        except httpx.HTTPError:
            self.must_live()
            raise
        if response.status_code != httpx.codes.OK:
            raise Refused(response.status_code, str(response.json().get("error")))
        said: dict[str, Any] = response.json()
        return said


@contextlib.contextmanager
def service(settings: str, folder: Path, python_path: Path | None, clock: Clock) -> Iterator[Service]:
    """Start one with this TOML, its files in ``folder``; nothing of it is left behind the block.

    ``python_path`` has the binding that it is to load. Raises Faulty if it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "config.toml", folder / "log"
    config.write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "server", "serve", "--config", str(config), "--host", "127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", "0"],
            cwd=PROJECT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(python_path),
        )
    try:
        yield Service(_address(process, log, clock), process, log, clock)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def environment(python_path: Path | None) -> dict[str, str]:
    """This one, without what would change the service's settings, and with the binding's folder."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith((*NOT_INHERITED, "OLLAMA_"))
    }
    if python_path is None:
        return inherited
    paths = [str(python_path), *filter(None, [inherited.get("PYTHONPATH")])]
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths)}


def settings(folder: Path, generator: Mapping[str, Any], helper: Mapping[str, Any]) -> str:
    """TOML in which both models are loaded only when they are asked for."""
    lines = [_toml("cache_dir", str(folder / "cache")), _toml("models_dir", str(folder / "models"))]
    for role, keys in {"generator": generator, "helper": helper}.items():
        lines += ["", f"[{role}]", *(_toml(key, value) for key, value in {**keys, "preload": False}.items())]
    return "\n".join(lines) + "\n"


def new_prompt(number: int, tokens: int) -> str:
    """About so many tokens that no prompt before it begins with."""
    dice = random.Random(number)  # noqa: S311
    return f"{number} " + " ".join(dice.choices(WORDS, k=tokens))


def resident_bytes(process_id: int) -> int:
    """Memory of a process that is no page of a file."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def _address(process: "subprocess.Popen[bytes]", log: Path, clock: Clock) -> str:
    end_s = time.monotonic() + min(START_S, clock.left_s)
    while time.monotonic() < end_s and process.poll() is None:
        text = log.read_text(errors="replace")
        if (found := re.search(r"listening\s+(http://\S+)", text)) and "Try it:" in text:
            return found[1]
        time.sleep(POLL_S)
    raise Faulty(f"the service does not start: {log.read_text(errors='replace')[-SHOWN_BYTES:]}")


def _rate(tokens: int, duration_ns: int) -> float:
    return tokens / duration_ns * 1e9 if duration_ns else 0.0


def _toml(key: str, value: object) -> str:
    # JSON writes text, numbers and truth values as TOML does.
    return f"{key} = {json.dumps(value)}"
