"""Every request that a real coding agent was seen to send, asked again: each is answered to the letter."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import QWEN
from tests.engine.gguf_files import with_chat_template, with_context_length, with_layers
from tests.running import PROJECT, RunningServer, embedded_config, serving

CAPTURES = PROJECT.parent / "shared" / "cline-captures"
WINDOW_TOKENS = 65536
"""The longest of the requests has 45,000 tokens."""
ANSWER_TOKENS = 24
LAYERS = 2
SESSIONS_AT_ONCE = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CAPTURES.is_dir(), reason="the recorded requests are not on this machine"),
]


@pytest.fixture(scope="module")
def wide_server(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The first layers of the embedded model with a template that knows tools, and with a window wider than
    it was trained for: what it says does not matter here."""
    folder = tmp_path_factory.mktemp("captures")
    tools = with_chat_template(embedded_model, folder / "tools.gguf", QWEN.read_text())
    wide = with_context_length(tools, folder / "wide.gguf", WINDOW_TOKENS)
    quick = with_layers(wide, folder / "quick.gguf", LAYERS)
    window = {"context": WINDOW_TOKENS, "slots": SESSIONS_AT_ONCE}
    helper = {"path": str(embedded_model), "preload": False}
    router = {"max_ctx_size": WINDOW_TOKENS, "strategy_a_max": WINDOW_TOKENS, "strategy_b_max": WINDOW_TOKENS}
    config = embedded_config(quick, generator=window, helper=helper, router=router)
    with serving(folder, config) as running:
        yield running


def sessions() -> list[list[Path]]:
    """The recorded requests of each session in their order."""
    return [sorted(folder.glob("[0-9][0-9][0-9].json")) for folder in CAPTURES.iterdir() if folder.is_dir()]


def replayed(client: httpx.Client, file: Path) -> str | None:
    """What is wrong with the answer to a request, or None."""
    body = json.loads(file.read_text(encoding="utf-8"))
    options = {**body.get("options", {}), "num_predict": ANSWER_TOKENS}
    response = client.post("/api/chat", json={**body, "model": "smollm2:135m", "options": options})
    where = f"{file.parent.name}/{file.name}"
    if response.status_code != 200:
        return f"{where}: {response.status_code} {response.text[:300]}"
    fault = fault_in([json.loads(line) for line in response.text.split("\n")[:-1]])
    return fault and f"{where}: {fault}"


def fault_in(lines: list[dict[str, Any]]) -> str | None:
    """What is wrong with a stream's lines, or None."""
    *before, last = lines
    if any(line["done"] or line["message"]["role"] != "assistant" for line in before):
        return "a line before the last is no part of an answer"
    if not last["done"] or last["done_reason"] not in ("stop", "length"):
        return f"it ends with {last}"
    if last["prompt_eval_count"] < 1 or last["eval_count"] < 1:
        return f"it ends without counts: {last}"
    return None


def test_every_recorded_request_is_answered(wide_server: RunningServer) -> None:
    def replay(files: list[Path]) -> list[str]:
        with httpx.Client(base_url=wide_server.url, timeout=1800) as client:
            return [fault for file in files if (fault := replayed(client, file))]

    recorded = sessions()
    assert sum(map(len, recorded)) > 0
    with ThreadPoolExecutor(SESSIONS_AT_ONCE) as pool:
        faults = [fault for some in pool.map(replay, recorded) for fault in some]
    assert faults == []
    assert not [line for line in wide_server.log if "Traceback" in line or " ERROR " in line]
