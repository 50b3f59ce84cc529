"""The user's own three tests, on a real server with a real model.

With the user's estimate, characters / 4, the log has the user's own figures. Chats of their sizes take
minutes on two cores: by default the same is asked of smaller ones under lower thresholds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.asking import eventually
from tests.e2e.conversations import as_one_message, as_several_messages
from tests.running import RunningServer, embedded_config, serving

MIDDLE, LARGE = 3568, 10_981
LOW_MIDDLE, LOW_LARGE = 800, 1800


@pytest.fixture(scope="module")
def short_summaries(
    embedded_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The default thresholds; short summaries, so that the tests take seconds on two cores."""
    with serving(tmp_path_factory.mktemp("router"), quick_config(embedded_model)) as running:
        yield running


@pytest.fixture(scope="module")
def low_thresholds(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Shorter chats are middling and large ones here, with pieces as much smaller."""
    router = {"strategy_a_max": 400, "strategy_b_max": 1200, "chunk_tokens": 600}
    with serving(tmp_path_factory.mktemp("low"), quick_config(embedded_model, **router)) as running:
        yield running


def quick_config(model: Path, **router: Any) -> str:
    router = {"summary_chars_max": 120, "helper_timeout_s": 900.0, "token_estimator": "chars", **router}
    return embedded_config(model, router=router)


def ask(
    server: RunningServer, messages: list[dict[str, Any]], **body: Any
) -> tuple[list[dict[str, Any]], Any]:
    """The lines of a streamed answer, and its headers."""
    request = {
        "model": "smollm2:135m",
        "messages": messages,
        "options": {"num_predict": 8, "temperature": 0},
        **body,
    }
    with server.client() as client, client.stream("POST", "/api/chat", json=request) as response:
        lines = [json.loads(line) for line in response.iter_lines()]
        assert response.status_code == 200, lines
        # The log comes by another way than the answer: its last line about this request is waited for.
        assert eventually(lambda: bool(server.logged(response.headers["X-Request-Id"])))
        return lines, response.headers


def new_lines(server: RunningServer, before: int) -> list[str]:
    return [line.split(" ", 2)[-1].strip() for line in server.log[before:]]


def test_a_few_tokens_go_straight_to_the_generator(short_summaries: RunningServer) -> None:
    before = len(short_summaries.log)
    lines, headers = ask(short_summaries, [{"role": "user", "content": "O que é Python?"}], stream=True)
    assert headers["X-LLM-Optimizer-Strategy"] == "A"
    assert lines[-1]["llm_optimizer"]["strategy"] == "A"
    assert new_lines(short_summaries, before)[0] == "/api/chat: direto GPU0 (3 tokens, stream=True)"


def test_between_the_thresholds_a_chat_is_shortened_in_one_pass(low_thresholds: RunningServer) -> None:
    check_one_pass(low_thresholds, as_several_messages(LOW_MIDDLE), LOW_MIDDLE, shortened_to=1 / 3)


@pytest.mark.slow
@pytest.mark.parametrize("make", [as_several_messages, as_one_message])
def test_a_middling_chat_is_shortened_in_one_pass(short_summaries: RunningServer, make: Any) -> None:
    check_one_pass(short_summaries, make(MIDDLE), MIDDLE, shortened_to=1 / 4)


def check_one_pass(
    server: RunningServer, messages: list[dict[str, Any]], estimated_tokens: int, *, shortened_to: float
) -> None:
    before = len(server.log)
    lines, headers = ask(server, messages, stream=True)
    done = lines[-1]["llm_optimizer"]
    assert (headers["X-LLM-Optimizer-Strategy"], done["strategy"], done["summaries"]) == ("B", "B", 1)
    assert done["tokens_sent"] < shortened_to * done["tokens_received"]
    assert done["helper_duration"] > 0
    assert lines[-1]["prompt_eval_count"] == done["tokens_received"]
    logged = new_lines(server, before)
    assert logged[0] == f"/api/chat: dual-GPU pipeline B ({estimated_tokens} tokens)"
    assert logged[1].startswith("GPU1 summary: ")
    assert logged[1].endswith(" chars")


@pytest.mark.parametrize(
    ("make", "sent"),
    # The first of several messages is short enough to stay as the task.
    [pytest.param(as_several_messages, 3, marks=pytest.mark.slow), (as_one_message, 1)],
)
def test_a_chat_above_the_upper_threshold_is_map_reduced(
    low_thresholds: RunningServer, make: Any, sent: int
) -> None:
    check_map_reduced(low_thresholds, make(LOW_LARGE), LOW_LARGE, shortened_to=1 / 3, sent=sent)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "sent"), [(as_several_messages, 2), (as_one_message, 1)])
def test_a_large_chat_is_map_reduced(short_summaries: RunningServer, make: Any, sent: int) -> None:
    check_map_reduced(short_summaries, make(LARGE), LARGE, shortened_to=1 / 4, sent=sent)


def check_map_reduced(
    server: RunningServer,
    messages: list[dict[str, Any]],
    estimated_tokens: int,
    *,
    shortened_to: float,
    sent: int,
) -> None:
    before = len(server.log)
    lines, headers = ask(server, messages, stream=True)
    done = lines[-1]["llm_optimizer"]
    assert (headers["X-LLM-Optimizer-Strategy"], done["strategy"]) == ("C", "C")
    assert done["summaries"] > 1
    assert done["tokens_sent"] < shortened_to * done["tokens_received"]
    logged = new_lines(server, before)
    assert logged[0] == f"/api/chat: map-reduce pipeline C ({estimated_tokens} tokens)"
    assert logged[1] == f"map-reduce {len(messages)} → {sent} msgs, {done['summaries']} summaries"


def test_the_choice_does_not_depend_on_stream(low_thresholds: RunningServer) -> None:
    request = {
        "model": "smollm2:135m",
        "messages": as_one_message(LOW_MIDDLE),
        "stream": False,
        "options": {"num_predict": 4},
    }
    with low_thresholds.client() as client:
        answer = client.post("/api/chat", json=request)
    assert answer.json()["llm_optimizer"]["strategy"] == "B"
    assert answer.headers["X-LLM-Optimizer-Summaries"] == "1"
    assert int(answer.headers["X-LLM-Optimizer-Helper-Ms"]) > 0


def test_the_helper_by_name_is_not_routed(low_thresholds: RunningServer) -> None:
    lines, headers = ask(low_thresholds, as_one_message(LOW_MIDDLE), model="smollm2:135m-helper")
    assert headers["X-LLM-Optimizer-Strategy"] == "direct"
    assert lines[-1]["llm_optimizer"]["tokens_sent"] == lines[-1]["llm_optimizer"]["tokens_received"]


def test_a_chat_of_which_nothing_may_be_shortened_goes_direct(short_summaries: RunningServer) -> None:
    before = len(short_summaries.log)
    messages = [
        {"role": "system", "content": "Responsibilities " * 480},
        {"role": "user", "content": "Hello!"},
    ]
    lines, _ = ask(short_summaries, messages)
    assert lines[-1]["llm_optimizer"]["reason"] == "nothing in this chat may be shortened"
    logged = [line for line in new_lines(short_summaries, before) if "direto" in line]
    assert logged == ["/api/chat: direto GPU0 (2041 tokens, stream=True)"]


def test_headers_come_before_the_helper_is_done(short_summaries: RunningServer) -> None:
    request = {"model": "smollm2:135m", "messages": as_several_messages(MIDDLE, "You are brief.")}
    before = len(short_summaries.log)
    with short_summaries.client() as client, client.stream("POST", "/api/chat", json=request) as response:
        assert response.headers["X-LLM-Optimizer-Strategy"] == "B"
        assert not [line for line in new_lines(short_summaries, before) if line.startswith("GPU1 summary")]
    # The client is gone now: the helper must be free again at once.
    with short_summaries.client() as client:
        wait_until_idle(client)


def wait_until_idle(client: httpx.Client) -> None:
    for _ in range(200):
        slots = [model["slots"] for model in client.get("/api/ps").json()["models"]]
        if all(slot["running"] == slot["queued"] == 0 for slot in slots):
            return
    raise AssertionError(slots)


def test_the_next_turn_goes_on_with_the_same_summary(low_thresholds: RunningServer) -> None:
    chat = as_several_messages(LOW_MIDDLE, "You are calm.")
    first, _ = ask(low_thresholds, chat)
    assert (first[-1]["llm_optimizer"]["summaries"], first[-1]["llm_optimizer"]["summaries_reused"]) == (1, 0)
    words = "".join(line["message"]["content"] for line in first)
    later = [*chat, {"role": "assistant", "content": words}, {"role": "user", "content": "And how often?"}]
    before = len(low_thresholds.log)
    second, _ = ask(low_thresholds, later)
    done = second[-1]["llm_optimizer"]
    assert (done["strategy"], done["summaries"], done["summaries_reused"]) == ("B", 1, 1)
    assert done["helper_duration"] == 0
    logged = new_lines(low_thresholds, before)
    assert "1 summaries of earlier turns go on" in logged
    assert not [line for line in logged if line.startswith("GPU1 summary")]
