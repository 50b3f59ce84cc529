"""A service whose generator, or helper, is run by another server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.running import RunningServer, embedded_config, serving

GENERATOR, HELPER = "smollm2:135m", "smollm2:135m-helper"
DIRECT = {"X-LLM-Optimizer-Policy": "direct"}


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
