"""Chats that do not fit, on a server with a small window."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.asking import HELLO, answer_of, chat, chunks_of, error_of
from tests.running import RunningServer, embedded_config, serving

SMALL = {"context": 512}
TASK = {"role": "user", "content": "Keep the word heron in mind."}


@pytest.fixture(scope="module")
def server(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    config = embedded_config(embedded_model, generator=SMALL, helper={**SMALL, "preload": False})
    with serving(tmp_path_factory.mktemp("small"), config) as running:
        yield running


def long_chat() -> list[dict[str, Any]]:
    turns = [
        message
        for number in range(20)
        for message in (
            {"role": "assistant", "content": f"Answer {number}: " + "yes " * 12},
            {"role": "user", "content": f"Question {number}: " + "why " * 12},
        )
    ]
    return [TASK, *turns, {"role": "assistant", "content": "Done."}, *HELLO]


def test_the_oldest_messages_go_and_the_answer_says_so(client: httpx.Client, server: RunningServer) -> None:
    done = answer_of(chat(client, messages=long_chat()))["llm_optimizer"]
    assert done["dropped_messages"] % 2 == 0
    assert done["dropped_messages"] > 0
    assert done["tokens_sent"] < 512 < done["tokens_received"]
    assert server.logged("of the oldest messages were left out")


def test_a_stream_says_so_in_its_header(client: httpx.Client) -> None:
    answers = (chat(client, messages=long_chat(), stream=True) for _ in range(5))
    # On a busy machine a stream may begin before anything is decided, and its headers tell nothing.
    response = next(one for one in answers if "x-llm-optimizer-strategy" in one.headers)
    dropped = chunks_of(response)[-1]["llm_optimizer"]["dropped_messages"]
    assert response.headers["x-llm-optimizer-dropped-messages"] == str(dropped)


def test_whoever_forbids_it_gets_an_error(client: httpx.Client) -> None:
    refused = error_of(chat(client, messages=long_chat(), truncate=False))
    assert "exceed the context window of 512 tokens" in refused


def test_a_chat_that_fits_loses_nothing(client: httpx.Client) -> None:
    assert "dropped_messages" not in answer_of(chat(client))["llm_optimizer"]


def test_what_must_stay_may_be_too_long(client: httpx.Client) -> None:
    huge = [{"role": "user", "content": "word " * 600}]
    assert "exceed the context window" in error_of(chat(client, messages=huge))
