"""One answer made of several."""

import json
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.cluster.merging import together, worst
from server.cluster.wire import Whole

JSON = ((b"content-type", b"application/json"),)


def whole(replica: str, told: Any, status: int = 200) -> Whole:
    return Whole(replica, status, JSON, json.dumps(told).encode())


def read(answer: Whole) -> Any:
    return json.loads(answer.body)


def test_health_is_as_bad_as_the_worst_which_comes_first() -> None:
    ill = whole("b", {"status": "error", "faults": {"m": "broken"}}, 503)
    answer = together("/health", [whole("a", {"status": "ok"}), ill])
    assert answer.status == 503
    assert read(answer)["status"] == "error"
    assert list(read(answer)["replicas"]) == ["b", "a"]
    assert read(answer)["replicas"]["b"]["faults"] == {"m": "broken"}
    assert together("/health", [whole("a", {"status": "ok"})]).status == 200


def test_one_that_is_ready_is_enough_to_send_requests() -> None:
    wholes = [whole("a", {"ready": False}, 503), whole("b", {"ready": True})]
    assert together("/health/ready", wholes).status == 200
    assert together("/health/ready", wholes[:1]).status == 503
    assert read(together("/health/ready", wholes))["replicas"]["a"] == {"ready": False}


def test_a_model_loaded_twice_is_listed_twice_and_one_on_two_disks_once() -> None:
    same = {"models": [{"name": "m"}]}
    other = {"models": [{"name": "m"}, {"name": "n"}]}
    wholes = [whole("b", other), whole("a", same)]
    assert read(together("/api/ps", wholes)) == {
        "models": [
            {"name": "m", "replica": "a"},
            {"name": "m", "replica": "b"},
            {"name": "n", "replica": "b"},
        ]
    }
    assert read(together("/api/tags", wholes)) == {"models": [{"name": "m"}, {"name": "n"}]}
    models = [whole("a", {"object": "list", "data": [{"id": "x"}]})]
    assert read(together("/v1/models", models)) == {"object": "list", "data": [{"id": "x"}]}


def test_who_may_not_ask_hears_what_each_would_say() -> None:
    denied = whole("a", {"error": "no"}, 401)
    assert together("/api/ps", [denied, denied]) == denied


def test_an_original_lies_with_one_of_them() -> None:
    found = Whole("b", 200, ((b"content-type", b"text/plain"),), b"the text")
    missing = whole("a", {"error": "there is none"}, 404)
    assert together("/api/router/original/x", [missing, found]) == found
    assert together("/api/router/original/x", [missing]) == missing


def test_the_worst_answer_is_the_highest_status() -> None:
    fine, bad = whole("a", {}), whole("b", {}, 500)
    assert worst([fine, bad]) is bad
    assert worst([fine, fine]) is fine


def metrics(requests: int, seconds: float) -> bytes:
    registry = CollectorRegistry()
    Counter("asked", "Requests.", ["route"], registry=registry).labels("/").inc(requests)
    Gauge("free_bytes", "Memory.", registry=registry).set(requests)
    Histogram("took_seconds", "Time.", buckets=(1, 2), registry=registry).observe(seconds)
    return generate_latest(registry)


def test_metrics_of_all_have_each_familys_head_once_and_each_sample_its_replica() -> None:
    wholes = [Whole(name, 200, (), metrics(n, 1.5)) for n, name in ((3, "a"), (4, "b"))]
    answer = together("/metrics", wholes)
    text = answer.body.decode()
    assert text.count("# TYPE asked_total counter") == 1
    assert 'asked_total{replica="a",route="/"} 3.0' in text
    assert 'asked_total{replica="b",route="/"} 4.0' in text
    assert 'took_seconds_bucket{le="2.0",replica="b"} 1.0' in text
    assert 'free_bytes{replica="b"} 4.0' in text
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert families["asked"] == "counter"
    assert families["took_seconds"] == "histogram"
    assert (b"content-type", b"text/plain; version=0.0.4; charset=utf-8") in answer.headers
