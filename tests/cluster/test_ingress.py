"""The ingress with replicas that are forced to fail."""

import asyncio
import gzip
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from server.cluster.endings import LOST
from server.cluster.ingress import Ingress
from server.cluster.terms import Terms
from server.cluster.wire import Head, Piece, ReplicaLost, Taken, Whole
from tests.cluster.replicas import EVENTS, JSON, NDJSON, Scripted, fine, lost, nobody

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TERMS = Terms(patience_s=0.2, body_mib=1)


def ask(
    replicas: Scripted, method: str = "POST", path: str = "/api/chat", terms: Terms = TERMS, **more: Any
) -> httpx.Response:
    """One request through the ingress."""
    if method == "POST" and "content" not in more:
        more.setdefault("json", BODY)

    async def answered() -> httpx.Response:
        transport = httpx.ASGITransport(app=Ingress(replicas, terms))
        async with httpx.AsyncClient(transport=transport, base_url="http://cluster") as client:
            return await client.request(method, path, **more)

    return asyncio.run(answered())


def lines(answer: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_an_answer_comes_through_with_its_replicas_name() -> None:
    replicas = Scripted(fine("a", b'{"a":', b"1}"))
    answer = ask(replicas)
    assert (answer.status_code, answer.json()) == (200, {"a": 1})
    assert answer.headers["x-llm-optimizer-replica"] == "a"
    assert replicas.asked[0].begins.model == "m:latest"
    assert len(replicas.asked[0].begins.turns) == 1
    assert replicas.hung_up == 0


@pytest.mark.parametrize(
    "script",
    [
        lost(),
        lost(Taken("a")),
        lost(Taken("a"), JSON),
        [],
        [Taken("a")],
    ],
)
def test_what_is_lost_before_its_first_byte_goes_to_another(script: Sequence[Any]) -> None:
    replicas = Scripted(script, fine("b", b"{}"))
    answer = ask(replicas, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-llm-optimizer-replica"]) == (200, "b")
    assert [one.header(b"x-request-id") for one in replicas.asked] == ["mine", "mine"]
    assert replicas.asked[0] == replicas.asked[1]


def test_not_for_ever() -> None:
    replicas = Scripted(lost())
    answer = ask(replicas, path="/v1/chat/completions", terms=Terms(attempts=2))
    assert answer.status_code == 503
    assert "2 machines were lost" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] == "5"
    assert len(replicas.asked) == 2


def test_a_stream_that_has_begun_ends_with_the_dialects_own_error() -> None:
    begun = (Taken("a"), NDJSON, Piece(b'{"done":false}\n'))
    replicas = Scripted(lost(*begun), fine("b", b"{}"))
    assert lines(ask(replicas)) == [{"done": False}, {"error": LOST}]
    assert len(replicas.asked) == 1, "the client has seen a part of it: another answer would be another text"


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/v1/chat/completions", '{"error":{"message":"%s","type":"api_error","param":null,"code":null}}'),
        ("/v1/responses", '{"type":"error","code":"server_error","message":"%s","param":null}'),
        (
            "/v1/messages",
            '{"type":"error","error":{"type":"overloaded_error","message":"%s"},"request_id":"r"}',
        ),
        ("/dashboard/events", '{"error": "%s"}'),
    ],
)
def test_and_as_an_event_where_events_are_streamed(path: str, end: str) -> None:
    replicas = Scripted(lost(Taken("a"), EVENTS, Piece(b"data: {}\n\n")))
    answer = ask(replicas, "GET" if "dash" in path else "POST", path, headers={"x-request-id": "r"})
    events = [part for part in answer.text.split("\n\n") if part.strip()]
    assert events[0] == "data: {}"
    assert events[1].splitlines()[-1] == "data: " + end % LOST
    assert len(events) == 2


def test_an_object_that_breaks_in_its_middle_breaks_the_connection() -> None:
    with pytest.raises(Exception, match=LOST):
        ask(Scripted(lost(Taken("a"), JSON, Piece(b'{"a":'))))


def test_nobody_there_and_nobody_with_time() -> None:
    for script in (nobody(), [5.0, Taken("a")]):
        answer = ask(Scripted(script), path="/v1/messages")
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "overloaded_error"
    assert "0.2 s" in answer.text


def test_slow_answers_are_waited_for_once_they_are_taken() -> None:
    assert ask(Scripted([Taken("a"), 0.5, *fine("a", b"{}")[1:]])).status_code == 200


def test_who_hangs_up_ends_the_work() -> None:
    replicas = Scripted([Taken("a"), NDJSON, Piece(b"{}\n"), 60.0])
    received = asyncio.Queue[dict[str, Any]]()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            received.put_nowait({"type": "http.disconnect"})

    async def hang_up() -> None:
        received.put_nowait({"type": "http.request", "body": json.dumps(BODY).encode()})
        scope = {"type": "http", "method": "POST", "path": "/api/chat", "headers": [], "client": None}
        await asyncio.wait_for(Ingress(replicas, TERMS)(scope, received.get, send), 5)

    asyncio.run(hang_up())
    assert replicas.hung_up == 1
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def test_too_large_a_body_is_refused_and_a_packed_one_understood() -> None:
    answer = ask(Scripted([]), path="/v1/chat/completions", content=b"x" * (2**20 + 1))
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    replicas = Scripted(fine("a", b"{}"))
    packed = gzip.compress(json.dumps(BODY).encode())
    ask(replicas, content=packed, headers={"content-encoding": "gzip"})
    assert replicas.asked[0].begins.model == "m:latest"
    assert replicas.asked[0].body == packed


def test_a_body_that_is_no_json_goes_to_somebody_who_says_so() -> None:
    replicas = Scripted(fine("a", b"{}"))
    assert ask(replicas, content=b"{").status_code == 200
    assert replicas.asked[0].body == b"{"


def test_uploads_are_refused_in_words() -> None:
    answer = ask(Scripted([]), path="/api/blobs/sha256:0", content=b"x")
    assert answer.status_code == 501
    assert "put the file onto each machine" in answer.json()["error"]


ALL = [Whole("a", 200, JSON.headers, b'{"status":"success"}'), Whole("b", 200, JSON.headers, b"{}")]
NOT_B = [ALL[0], Whole("b", 404, JSON.headers, b'{"error":"not here"}')]


def test_what_all_must_do_is_done_by_all_and_the_worst_answer_tells() -> None:
    assert ask(Scripted(wholes=ALL), path="/api/copy", json={"source": "m"}).status_code == 200
    answer = ask(Scripted(wholes=NOT_B), "DELETE", "/api/delete", json={"model": "m"})
    assert (answer.status_code, answer.json()) == (404, {"error": "not here"})


def test_a_pull_that_ends_soon_keeps_its_status() -> None:
    replicas = Scripted(wholes=NOT_B)
    answer = ask(replicas, path="/api/pull", json={"model": "m"})
    assert answer.status_code == 404
    assert json.loads(replicas.asked[0].body) == {"model": "m", "stream": False}


def test_a_long_pull_tells_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Scripted):
        async def ask_all(self, asked: Any, limit_s: float | None) -> list[Whole]:
            await asyncio.sleep(0.3)
            return await super().ask_all(asked, limit_s)

    monkeypatch.setattr("server.cluster.ingress.PROGRESS_S", 0.1)
    answer = ask(Slow(wholes=ALL), path="/api/pull", json={"model": "m"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    *waiting, last = lines(answer)
    assert {"status": "pulling on all machines"} in waiting
    assert last == {"status": "success"}
    failed = ask(Slow(wholes=ReplicaLost("b")), path="/api/pull", json={"model": "m"})
    assert lines(failed)[-1] == {"error": "not all machines have answered: b"}
    assert ask(Slow(wholes=ALL), path="/api/pull", json={"model": "m", "stream": False}).json() == {
        "status": "success"
    }


def test_one_answer_is_made_of_those_of_all() -> None:
    replicas = Scripted(wholes=[Whole("a", 200, JSON.headers, b'{"models":[{"name":"m"}]}')])
    answer = ask(replicas, "GET", "/api/ps", headers={"accept": "text/html"})
    assert answer.json() == {"models": [{"name": "m", "replica": "a"}]}
    assert replicas.asked[0].header(b"accept").startswith("text/plain")
    assert ask(replicas, "HEAD", "/api/tags").content == b""
    assert ask(Scripted(wholes=ReplicaLost("b is away")), "GET", "/health").status_code == 503


def test_a_proxy_on_the_same_machine_is_no_client_on_it() -> None:
    for knows, client in ((True, ("127.0.0.1", 123)), (False, None)):
        replicas = Scripted(fine("a", b"{}"))
        transport = httpx.ASGITransport(app=Ingress(replicas, TERMS, knows_clients=knows))

        async def asked(transport: httpx.ASGITransport = transport) -> None:
            async with httpx.AsyncClient(transport=transport, base_url="http://c") as http:
                await http.post("/api/chat", json=BODY)

        asyncio.run(asked())
        assert replicas.asked[0].client == client


def sized(length: int) -> Head:
    return Head(200, ((b"content-type", b"application/json"), (b"content-length", str(length).encode())))


def test_an_answer_of_known_length_is_complete_with_its_last_byte() -> None:
    replicas = Scripted(lost(Taken("a"), sized(7), Piece(b'{"a":'), Piece(b"1}")), fine("b", b"{}"))
    assert ask(replicas).json() == {"a": 1}
    assert len(replicas.asked) == 1


def test_half_an_answer_of_known_length_has_not_begun() -> None:
    replicas = Scripted(lost(Taken("a"), sized(7), Piece(b'{"a":')), fine("b", b'{"b":2}', head=sized(7)))
    assert ask(replicas).json() == {"b": 2}
    assert len(replicas.asked) == 2


def test_an_answer_that_is_shorter_than_it_says_is_handed_on() -> None:
    assert ask(Scripted(fine("a", b"{}", head=sized(7)))).content == b"{}"
