"""kill -9 in the middle of everything, twenty times: it comes back, has lost nothing, and clients know."""

import itertools
import json
import random
import signal
import socket
import sqlite3
import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conversations import as_one_message
from tests.running import RunningServer, embedded_config

TIMES = 20
CLIENTS = 4
ROUTER = {"strategy_a_max": 200, "strategy_b_max": 600, "summary_chars_max": 120, "chunk_tokens": 256}
BROKEN_OFF = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""What a client sees of a server that is gone: an error, and neither silence nor half an answer."""

SYSTEM = " ".join(f"Rule {number}: answer in one short sentence." for number in range(60))


class Load:
    """Clients that ask without a pause, whether anybody is there or not."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self._ended = threading.Event()
        self.paused = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        dice = random.Random(number)  # noqa: S311
        with httpx.Client(base_url=self.url, timeout=120) as client:
            while not self._ended.is_set():
                if self.paused.is_set():
                    time.sleep(0.05)
                    continue
                try:
                    self._one(client, dice)
                except BROKEN_OFF as error:
                    self.outcomes[type(error).__name__] += 1
                    time.sleep(0.05)
                except Exception as error:  # noqa: BLE001  # whatever it is, it is the test's result
                    self.faults.append(repr(error))

    def _one(self, client: httpx.Client, dice: random.Random) -> None:
        messages = dice.choice(
            [
                [{"role": "user", "content": f"Count from {dice.randrange(1000)}."}],
                [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What is rain?"}],
                as_one_message(dice.randrange(300, 900)),
            ]
        )
        body = {"model": "smollm2:135m", "messages": messages, "options": {"num_predict": 20}}
        with client.stream("POST", "/api/chat", json=body) as response:
            lines = [json.loads(line) for line in response.iter_lines()]
        self.outcomes[f"status {response.status_code}"] += 1
        if response.status_code != 200 or not lines[-1].get("done"):
            self.faults.append(f"{response.status_code} {lines[-1:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def summarised(client: httpx.Client, number: int) -> dict[str, Any]:
    """A chat that the helper has to sum up; each number is another one."""
    messages = [*as_one_message(400), {"role": "assistant", "content": "Yes."}]
    messages = [
        {"role": "user", "content": f"Story {number}."},
        *messages,
        {"role": "user", "content": "So?"},
    ]
    body = {"model": "smollm2:135m", "messages": messages, "stream": False, "options": {"num_predict": 4}}
    told: dict[str, Any] = client.post("/api/chat", json=body).json()["llm_optimizer"]
    return told


@pytest.mark.slow
def test_killed_twenty_times_under_load(tmp_path: Path, embedded_model: Path) -> None:
    config, port = tmp_path / "config.toml", free_port()
    config.write_text(
        f'listen = ["127.0.0.1:{port}"]\n'
        + embedded_config(embedded_model, generator={"context": 2048}, router=ROUTER)
    )
    load = Load(f"http://127.0.0.1:{port}")
    starts_s: list[float] = []
    kept: list[str] = []
    states = 0
    dice = random.Random(7)  # noqa: S311
    try:
        for time_number in itertools.count():
            started_s = time.monotonic()
            running = RunningServer(config, port=None)
            starts_s.append(time.monotonic() - started_s)
            try:
                states = _check(running, tmp_path, kept, states)
                if time_number == TIMES:
                    break
                with running.client() as client:
                    _keep_something(client, kept, time_number)
                # Every second time it is quiet before: then states are being written to disk.
                if time_number % 2:
                    load.paused.set()
                    time.sleep(5 + dice.random())
                time.sleep(dice.random() * 2)
                running.stop(signal.SIGKILL)
                load.paused.clear()
            finally:
                running.kill()
    finally:
        load.end()
    print(
        f"\n{TIMES} kills: ready again after {statistics.median(starts_s):.1f} s (median), "
        f"{max(starts_s):.1f} s (longest); clients saw {dict(load.outcomes)}; "
        f"{len(kept)} models and summaries, {states} states found again"
    )
    assert load.faults == []
    assert load.outcomes["status 200"] > TIMES
    assert states > 0


def _keep_something(client: httpx.Client, kept: list[str], number: int) -> None:
    """What the service confirms must be there after the next start."""
    names = {"source": "smollm2:135m", "destination": f"copy-{number}"}
    assert client.post("/api/copy", json=names).status_code == 200
    kept.append(f"copy-{number}:latest")
    assert summarised(client, number)["strategy"] in ("B", "C")


def _check(running: RunningServer, folder: Path, kept: list[str], states: int) -> int:
    """Nothing is lost or damaged; returns how many states of prompts were found."""
    assert not [line for line in running.log if "damaged and" in line or "Traceback" in line]
    with sqlite3.connect(folder / "cache" / "summaries.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert not list((folder / "cache").glob("*.part"))
    with running.client() as client:
        names = {model["name"] for model in client.get("/api/tags").json()["models"]}
        assert names >= set(kept)
        if kept:
            told = summarised(client, len(kept) - 1)
            assert told["summaries_reused"] == told["summaries"] > 0
    [found] = [line for line in running.logged(" states of this model (") if "; 0 damaged" in line][:1]
    count = int(found.partition(" states of")[0].rpartition(" ")[2])
    assert count >= states
    return count
