"""Many clients at once: some hang up, the others finish, and everything comes back."""

import json
import threading
import time
from typing import Any

import httpx
import pytest

from tests.running import RunningServer

GROWTH_BYTES = 40 * 2**20
"""Allocators keep some of what they got; a leak of one context's logits a request would be 300 MB."""


def body(question: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": "smollm2:135m", "messages": messages, "options": {"num_predict": tokens}}


def slots(client: httpx.Client) -> dict[str, int]:
    models = client.get("/api/ps").json()["models"]
    return next(model["slots"] for model in models if model["name"] == "smollm2:135m")


def wait_until_idle(client: httpx.Client) -> None:
    deadline = time.monotonic() + 30
    while (seen := slots(client))["running"] or seen["queued"]:
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)


class Talker(threading.Thread):
    """A client that reads its whole answer, or hangs up after ``lines`` of it."""

    def __init__(self, server: RunningServer, number: int, lines: int | None) -> None:
        super().__init__()
        self.server, self.number, self.lines = server, number, lines
        self.last: dict[str, Any] = {}

    def run(self) -> None:
        question = f"Tell me a long story about the number {self.number}."
        with (
            self.server.client() as client,
            client.stream("POST", "/api/chat", json=body(question, 48)) as response,
        ):
            for read, line in enumerate(response.iter_lines(), 1):
                self.last = json.loads(line)
                if read == self.lines:
                    return


def test_of_eight_clients_two_hang_up_and_six_finish(server: RunningServer, client: httpx.Client) -> None:
    talkers = [Talker(server, number, lines=3 if number in (2, 5) else None) for number in range(8)]
    for talker in talkers:
        talker.start()
    seen = 0
    while any(talker.is_alive() for talker in talkers):
        seen = max(seen, slots(client)["running"])
        time.sleep(0.05)
    for talker in talkers:
        talker.join()
        finished = talker.last["done"] and talker.last["done_reason"] in ("stop", "length")
        assert finished is (talker.lines is None), talker.last
    assert seen > 1
    wait_until_idle(client)


def test_hanging_up_in_the_middle_of_a_long_prompt_frees_the_slot(
    server: RunningServer, client: httpx.Client
) -> None:
    request = body("word " * 6000, 8)
    request["model"] = "smollm2:135m-helper"
    with (
        httpx.Client(base_url=server.url, timeout=httpx.Timeout(60, read=1.0)) as impatient,
        impatient.stream("POST", "/api/chat", json=request),
    ):
        pass
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        models = client.get("/api/ps").json()["models"]
        helper = next(model["slots"] for model in models if model["name"] == "smollm2:135m-helper")
        if helper["running"] == helper["queued"] == 0:
            return
        time.sleep(0.02)
    raise AssertionError(helper)


@pytest.mark.slow
def test_memory_does_not_grow_over_200_requests(server: RunningServer, client: httpx.Client) -> None:
    def ask(number: int) -> None:
        request = body(f"Question {number}: " + "what is it? " * (number % 7), 2)
        if number % 10 == 0:
            with client.stream(
                "POST", "/api/chat", json={**request, "options": {"num_predict": 50}}
            ) as response:
                next(response.iter_lines())
            return
        assert client.post("/api/chat", json={**request, "stream": False}).status_code == 200

    for number in range(50):
        ask(number)
    wait_until_idle(client)
    before = server.resident_bytes()
    for number in range(200):
        ask(number)
    wait_until_idle(client)
    assert server.resident_bytes() - before < GROWTH_BYTES


def test_cheap_routes_answer_at_once_while_eight_answers_are_generated(
    server: RunningServer, client: httpx.Client
) -> None:
    talkers = [Talker(server, number, lines=None) for number in range(8)]
    for talker in talkers:
        talker.start()
    slowest = 0.0
    while any(talker.is_alive() for talker in talkers):
        for path in ("/", "/api/version", "/api/tags", "/api/ps"):
            started = time.monotonic()
            assert client.get(path).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
    for talker in talkers:
        talker.join()
    assert slowest < 1
