"""The application under the real Ray Serve: two replicas on this machine."""

import importlib.util
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import EMBEDDED
from tests.running import PROJECT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make cluster"),
]

REPLICA = "x-llm-optimizer-replica"
MODEL = "bench:tiny"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Shared: a start takes half a minute. The test that kills a process waits until all is whole again."""
    from bench.cluster.own_cluster import own_cluster

    with own_cluster(EMBEDDED, "prefix") as running:
        yield running


@pytest.fixture
def client(cluster: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=120) as connected:
        wait_until_whole(connected)
        yield connected


def wait_until_whole(client: httpx.Client, seconds: float = 120) -> None:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        told = client.get("/health/ready").json().get("replicas", {})
        if len(told) == 2 and all(one.get("ready") for one in told.values()):
            return
        time.sleep(0.5)
    raise AssertionError(f"the cluster is not whole again: {told}")


def chat(client: httpx.Client, words: str, *turns: dict[str, str], tokens: int = 4, **more: Any) -> Any:
    messages = [{"role": "user", "content": words}, *turns]
    body = {"model": MODEL, "messages": messages, "max_tokens": tokens, "temperature": 0, **more}
    return client.post("/v1/chat/completions", json=body)


def wait_until_known(client: httpx.Client, seconds: float = 60) -> None:
    """Replicas tell the ingresses every two seconds what they have loaded, and new ones get no conversations
    before that. One conversation after another would stay where their common beginning has been read: only
    several at once need both."""
    deadline_s, answered = time.monotonic() + seconds, set()
    with ThreadPoolExecutor(4) as pool:
        for number in itertools.count():
            probes = [f"Probe {number}, {part}." for part in range(4)]
            found = pool.map(lambda words: chat(client, words, tokens=1).headers[REPLICA], probes)
            answered.update(found)
            if len(answered) == 2:
                return
            assert time.monotonic() < deadline_s, "one of the replicas gets no conversation"


def test_a_conversation_stays_with_its_replica_and_finds_its_prefix(client: httpx.Client) -> None:
    wait_until_known(client)
    with ThreadPoolExecutor(8) as pool:
        firsts = list(pool.map(lambda n: chat(client, f"Talk {n}: count the drums. " * 8), range(8)))
        assert len({first.headers[REPLICA] for first in firsts}) == 2, "both take conversations"
        laters = list(
            pool.map(
                lambda n: chat(
                    client,
                    f"Talk {n}: count the drums. " * 8,
                    firsts[n].json()["choices"][0]["message"],
                    {"role": "user", "content": "Again."},
                ),
                range(8),
            )
        )
    for first, later in zip(firsts, laters, strict=True):
        assert later.headers[REPLICA] == first.headers[REPLICA]
        usage = later.json()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert cached >= first.json()["usage"]["prompt_tokens"] - 8


def test_what_one_asks_of_all_is_answered_for_all(client: httpx.Client) -> None:
    health = client.get("/health").json()
    assert (health["status"], len(health["replicas"])) == ("ok", 2)
    assert len({model["replica"] for model in client.get("/api/ps").json()["models"]}) == 2
    assert [model["name"] for model in client.get("/api/tags").json()["models"]].count(MODEL) == 1
    metrics = client.get("/metrics").text
    assert metrics.count("# TYPE llm_optimizer_build_info gauge") == 1
    assert all(f'replica="{name}"' in metrics for name in health["replicas"])
    assert client.get("/").text == "Ollama is running"


def test_errors_are_the_dialects_own(client: httpx.Client) -> None:
    unknown = {"model": "none", "messages": [{"role": "user", "content": "Hi"}]}
    answer = client.post("/v1/chat/completions", json=unknown)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "error" in client.post("/api/chat", content=b"{").json()
    assert client.post("/api/blobs/sha256:0", content=b"x").status_code == 501


def test_who_hangs_up_frees_the_lane(client: httpx.Client) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Go on for ever."}]}
    options = {"num_predict": -1, "ignore_eos": True}
    with client.stream("POST", "/api/chat", json={**body, "options": options}) as answer:
        lines = answer.iter_lines()
        assert [json.loads(next(lines))["done"] for _ in range(3)] == [False] * 3
        assert running(client) == 1
    deadline_s = time.monotonic() + 20
    while running(client):
        assert time.monotonic() < deadline_s, "nobody reads the answer, and it goes on"
        time.sleep(0.2)


def running(client: httpx.Client) -> int:
    return sum(model["slots"]["running"] for model in client.get("/api/ps").json()["models"])


def test_a_killed_replica_loses_no_request_that_had_not_begun(cluster: Any, client: httpx.Client) -> None:
    killed = threading.Event()

    def ask(number: int) -> int:
        if number == 12:
            os.kill(cluster.service_pids()[0], signal.SIGKILL)
            killed.set()
        status: int = chat(client, f"Report {number} of the yard. " * 6, tokens=16).status_code
        return status

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(ask, range(24)))
    assert killed.is_set()
    assert statuses == [200] * 24
    wait_until_whole(client)


def test_all_are_replaced_without_a_request_lost(cluster: Any, client: httpx.Client) -> None:
    before = set(client.get("/health").json()["replicas"])
    done = threading.Event()

    def ask(number: int) -> list[int]:
        statuses = []
        while not done.is_set():
            statuses.append(chat(client, f"Round {number}.", tokens=4).status_code)
        return statuses

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]
        cluster.replace_all()
        cluster.wait_for("replaced")
        done.set()
        statuses = [status for one in asking for status in one.result()]
    assert set(statuses) == {200}
    assert not before & set(client.get("/health").json()["replicas"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_takes_the_sample_file() -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    read = yaml.safe_load((PROJECT / "docs" / "cluster" / "serve.yaml").read_text())
    schema = ServeDeploySchema.model_validate(read)
    assert [one.name for one in schema.applications[0].deployments] == ["Ingress", "Service"]
