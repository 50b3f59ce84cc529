"""The real Cline CLI on a small model, whose session outgrows the server's window.

Each test takes minutes, and needs what is not in the repository:

    npm install --prefix DIR --ignore-scripts cline@3.0.65
    CLINE_BIN=DIR/node_modules/.bin/cline TOOL_MODEL=qwen2.5-coder-0.5b-instruct-q4_k_m.gguf \\
        python -m pytest -m slow -rP tests/e2e/test_cline.py

CLINE_E2E names a program that is to run and judge Cline instead: it gets the server's URL, the model and a
limit in seconds, and in its environment CLINE_BIN, PROMPT, SLIM and NUM_CTX. It prints ``finish reason``, and
exits with 0 where all is well.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.cline import PACKAGE, Ended, Errand, Exchange, listening
from tests.running import RunningServer, embedded_config, serving

pytestmark = pytest.mark.slow

STEADY = "tools:steady"
WINDOW_TOKENS = 7168
STAGES = 5
LIMIT_S = 1200

NIGHTLY = f'''\
"""One stage of a nightly check: its log, and what comes next."""
import sys

stage = int(sys.argv[1])
if stage > {STAGES}:
    print("ALL STAGES ARE DONE. There is no next command. Answer: all stages passed.")
    sys.exit()
for case in range(1, 41):
    name, took_ms = f"module_{{stage}}_{{case % 7}}.parse_record", (stage * 37 + case * 13) % 90 + 10
    print(f"stage {{stage}} case {{case:02d}} {{name}}: ok in {{took_ms}} ms")
print(f"stage {{stage}}: 40 cases passed")
print(f"NEXT COMMAND: python3 -m nightly {{stage + 1}}")
'''
"""About 960 tokens of output a stage. Which command comes next cannot be known before, so that the model must
go step by step."""

TASK = """\
Run this command with run_commands: python3 -m nightly 1
The last line of its output names the next command. Run that one, and go on like this, one command at a \
time. When the output says ALL STAGES ARE DONE, stop and answer: all stages passed."""


def needed(variable: str, what: str) -> Path:
    """The file that an environment variable names; without it there is nothing to test."""
    path = Path(os.environ.get(variable, ""))
    if not path.is_file():
        pytest.skip(f"{variable} must name {what}")
    return path.absolute()


@pytest.fixture(scope="module")
def cline() -> Path:
    return needed(
        "CLINE_BIN", f"the Cline CLI: npm install --ignore-scripts {PACKAGE}, node_modules/.bin/cline"
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> Iterator[RunningServer]:
    model = needed("TOOL_MODEL", "a GGUF that calls tools, such as qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")
    generator = {"name": "tools", "path": str(model), "context": WINDOW_TOKENS, "slots": 1}
    folder = tmp_path_factory.mktemp("cline")
    # Cline asks for 32,768 tokens, and would be given them.
    router = {"max_ctx_size": WINDOW_TOKENS}
    config = embedded_config(embedded_model, generator=generator, helper={"preload": False}, router=router)
    with serving(folder, config) as running, running.client() as client:
        # Cline gives no temperature. At 0 the model does what is likeliest, which even a small one does well.
        alias = {"model": STEADY, "from": "tools", "parameters": {"temperature": 0}, "stream": False}
        client.post("/api/create", json=alias).raise_for_status()
        yield running


def work(cline: Path, folder: Path, url: str) -> Ended:
    """Cline at its task."""
    (folder / "nightly.py").write_text(NIGHTLY)
    errand = Errand(cline, url, STEADY, TASK, folder, LIMIT_S)
    if "CLINE_E2E" in os.environ:
        return errand.run_by(needed("CLINE_E2E", "a program that runs and judges Cline"))
    return errand.run()


def tell(ended: Ended, chats: Sequence[Exchange]) -> None:
    """The evidence, for those who look (``-rP``)."""
    print("status  received  sent  cached  generated  shortened")
    for chat in chats:
        done = chat.last.get("llm_optimizer", {})
        figures = [done.get(f"tokens_{name}", "-") for name in ("received", "sent", "cached")]
        written, shortened = chat.last.get("eval_count", "-"), len(done.get("shortened", ()))
        print("{:>6} {:>9} {:>5} {:>7} {:>10} {:>10}".format(chat.status, *figures, written, shortened))
        if "error" in chat.last:
            print(f"        {chat.last['error']}")
    print(f"Cline ended with status {ended.status}, reason {ended.reason}: {ended.told}")


def done_of(chat: Exchange) -> dict[str, Any]:
    done: dict[str, Any] = chat.last["llm_optimizer"]
    return done


def shortened_texts(client: httpx.Client, chat: Exchange) -> list[str]:
    """What stands for each shortened result, which is what was done."""
    told = client.post("/api/router/explain", json=chat.body).raise_for_status().json()
    assert told["tokens_sent"] == done_of(chat)["tokens_sent"]
    return [one["text"] for one in told["shortened"]]


def test_a_session_that_outgrows_the_window_goes_on(
    cline: Path, server: RunningServer, tmp_path: Path
) -> None:
    with listening(server.url) as between:
        ended = work(cline, tmp_path, between.url)
    tell(ended, between.chats)
    assert (ended.status, ended.reason) == (0, "completed")
    assert all(chat.status == 200 for chat in between.chats)
    squeezed = [chat for chat in between.chats if "shortened" in done_of(chat)]
    assert squeezed
    assert done_of(squeezed[-1])["tokens_received"] > WINDOW_TOKENS
    assert server.logged("old tool results shortened")
    with server.client() as client:
        texts = [shortened_texts(client, chat) for chat in squeezed]
    turns = zip(pairwise(squeezed), pairwise(texts), strict=True)
    same = [chats for chats, (before, after) in turns if before == after]
    assert same
    for earlier, later in same:
        assert done_of(later)["tokens_cached"] >= done_of(earlier)["tokens_sent"]


def test_where_nothing_gives_way_cline_makes_its_own_history_shorter(
    cline: Path, server: RunningServer, tmp_path: Path
) -> None:
    with listening(server.url, **{"X-LLM-Optimizer-Policy": "direct"}) as between:
        ended = work(cline, tmp_path, between.url)
    tell(ended, between.chats)
    refused = next(place for place, chat in enumerate(between.chats) if chat.status == 400)
    again = between.chats[refused + 1]
    assert "prompt is too long" in between.chats[refused].last["error"]
    assert again.status == 200
    assert done_of(again)["tokens_received"] < WINDOW_TOKENS
    assert (ended.status, ended.reason) == (0, "completed")
