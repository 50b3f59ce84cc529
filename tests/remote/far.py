"""A service whose generator, or helper, is run by another server."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.running import RunningServer, embedded_config, serving

GENERATOR, HELPER = "smollm2:135m", "smollm2:135m-helper"
DIRECT = {"X-LLM-Optimizer-Policy": "direct"}

MONTHS, EGYPT, JAPAN = "Name the months.", "What is the capital of Egypt?", "What is the capital of Japan?"
COUNTED = "1, 2, 3, 4, 5, 6, 7,"
"""Prompts with a clear answer: at each of its tokens the second best is behind by 0.8 nats or more. Guessed
tokens, whose number depends on the time that steps take, let sums round otherwise by up to 0.2."""


@contextlib.contextmanager
def near(
    folder: Path, model: Path, url: str, *, role: str = "generator", **remote: Any
) -> Iterator[RunningServer]:
    """A service of its own that has ``role`` served at ``url``; ``remote`` are more settings of it."""
    served = {"remote_url": url, "remote_retries": 1, **remote}
    tables = {
        role: served,
        "router": {"helper_timeout_s": 600.0, "summary_chars_max": 100},
    }
    helper = tables.pop("helper", {})
    with serving(folder, embedded_config(model, helper={"path": str(model), **helper}, **tables)) as running:
        yield running


def chat(words: str, **more: Any) -> dict[str, Any]:
    """A greedy chat of one message."""
    options = {"temperature": 0, "num_predict": more.pop("num_predict", 16)}
    return {"model": GENERATOR, "messages": [{"role": "user", "content": words}], "options": options, **more}


def history(turns: int, first: int = 0) -> list[dict[str, str]]:
    """A conversation with a lot in it that may be shortened."""
    told: list[dict[str, str]] = []
    for turn in range(first, first + turns):
        fact = f"The valve number {turn} of the pump opens at {40 + turn} degrees and closes at {20 + turn}. "
        told.append({"role": "user", "content": f"Note this down, part {turn}. " + fact * 6})
        told.append({"role": "assistant", "content": f"Noted: part {turn} is written down. " + fact * 3})
    return [*told, {"role": "user", "content": "Which valve opens first?"}]


COUNTING = {"type": "array", "items": {"type": "integer"}, "minItems": 900}
"""A schema that makes an answer long, whatever the model thinks of it."""


def running_there(server: RunningServer) -> int:
    """How many answers are under way."""
    told = httpx.get(f"{server.url}/api/ps", timeout=60).json()["models"]
    return sum(model["slots"]["running"] + model["slots"]["queued"] for model in told)


def hang_up_in_the_middle(server: RunningServer, is_busy: Callable[[], bool]) -> None:
    """Leave a long answer after its first words; the other server must stop, too, which ``is_busy`` tells."""
    body = chat("Count as far as you can.", num_predict=4000, format=COUNTING)
    with server.client() as client, client.stream("POST", "/api/chat", json=body, headers=DIRECT) as told:
        # Held on to: an iterator that is dropped hangs up.
        lines = told.iter_lines()
        while '"content":""' in next(lines):
            pass
        assert is_busy()
    deadline_s = time.monotonic() + 20
    while is_busy():
        assert time.monotonic() < deadline_s, "it goes on there"
        time.sleep(0.05)


def break_in_the_middle(client: httpx.Client, kill: Callable[[], None]) -> None:
    """``kill`` the other server amid an answer, and before the first token of the next one."""
    body = chat("Count.", num_predict=4000, format=COUNTING)
    with client.stream("POST", "/api/chat", json=body, headers=DIRECT) as told:
        lines = told.iter_lines()
        assert "content" in json.loads(next(lines))["message"]
        kill()
        last = json.loads([line for line in lines if line][-1])
    assert "127.0.0.1" in last["error"]
    answer = client.post("/api/chat", json=chat("Hi", stream=False))
    assert answer.status_code == 503, answer.text
    assert "cannot be reached" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) > 0
