"""Loading and unloading by an empty request, and how long a model stays."""

import datetime
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.asking import (
    GENERATOR,
    HELPER,
    answer_of,
    chat,
    chat_body,
    error_of,
    eventually,
    generate,
    resident,
)
from tests.running import RunningServer


@pytest.fixture(autouse=True)
def helper_back(client: httpx.Client) -> Iterator[None]:
    """These tests send the helper away; others want it there."""
    yield
    answer_of(generate(client, model=HELPER, prompt="", keep_alive=-1))


def gone(client: httpx.Client) -> bool:
    return eventually(lambda: resident(client, HELPER) is None)


def seconds_left(client: httpx.Client) -> float:
    item = resident(client, HELPER)
    assert item is not None
    expires_at = datetime.datetime.fromisoformat(item["expires_at"])
    return (expires_at - datetime.datetime.now(datetime.UTC)).total_seconds()


def empty_chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/api/chat", json={"model": HELPER, **fields})
    answer = answer_of(response)
    assert answer.pop("message") == {"role": "assistant", "content": ""}
    return answer


def empty_generate(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/api/generate", json={"model": HELPER, **fields})
    answer = answer_of(response)
    assert answer.pop("response") == ""
    return answer


EMPTY = [empty_chat, empty_generate]


@pytest.mark.parametrize("ask", EMPTY)
@pytest.mark.parametrize("stream", [None, True, False])
def test_an_empty_request_loads_and_with_zero_unloads(client: httpx.Client, ask: Any, stream: Any) -> None:
    for keep_alive, reason in ((0, "unload"), (None, "load")):
        answer = ask(client, stream=stream, keep_alive=keep_alive)
        assert answer.pop("created_at")
        assert answer == {"model": HELPER, "done": True, "done_reason": reason}
        assert gone(client) if reason == "unload" else resident(client, HELPER)


@pytest.mark.parametrize("empty", [{"messages": []}, {"messages": None}])
def test_no_messages_in_any_spelling(client: httpx.Client, empty: dict[str, Any]) -> None:
    assert empty_chat(client, **empty)["done_reason"] == "load"


@pytest.mark.parametrize("empty", [{"prompt": ""}, {"prompt": None}, {"prompt": "", "suffix": ""}])
def test_no_prompt_in_any_spelling(client: httpx.Client, empty: dict[str, Any]) -> None:
    assert empty_generate(client, **empty)["done_reason"] == "load"


@pytest.mark.parametrize("zero", [0, 0.0, "0", "0s", "0m0s"])
def test_every_zero_unloads_once_and_again(client: httpx.Client, zero: Any) -> None:
    assert empty_chat(client, keep_alive=zero)["done_reason"] == "unload"
    assert gone(client)
    assert empty_generate(client, keep_alive=zero)["done_reason"] == "unload"


def test_an_unload_of_what_is_not_loaded_says_nothing_of_the_next_load(client: httpx.Client) -> None:
    empty_chat(client, keep_alive=0)
    assert gone(client)
    empty_chat(client, keep_alive=0)
    answer_of(chat(client, model=HELPER))
    assert seconds_left(client) > 10**9


def test_names_are_checked_for_loads_too(client: httpx.Client) -> None:
    for keep_alive in (0, 5):
        body = {"model": "nothing", "keep_alive": keep_alive}
        assert error_of(client.post("/api/generate", json=body), 404) == "model 'nothing' not found"
        assert error_of(client.post("/api/chat", json=body), 404) == "model 'nothing' not found"


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [(600, 600), (90.5, 90.5), ("5m", 300), ("1.5h", 5400), ("2h45m", 9900), ("400", 400), ("400000ms", 400)],
)
def test_keep_alive_sets_the_date(client: httpx.Client, keep_alive: Any, seconds: float) -> None:
    empty_chat(client, keep_alive=keep_alive)
    assert seconds - 60 < seconds_left(client) <= seconds
    answer_of(chat(client, model=HELPER))  # without a wish of its own it keeps what there is
    assert seconds - 60 < seconds_left(client) <= seconds


@pytest.mark.parametrize("keep_alive", [-1, -0.5, "-1", "-5m", 10**30, 1e300])
def test_for_ever_is_centuries_away(client: httpx.Client, keep_alive: Any) -> None:
    empty_chat(client, keep_alive=60)
    empty_chat(client, keep_alive=keep_alive)
    item = resident(client, HELPER)
    assert item is not None
    assert 2200 < datetime.datetime.fromisoformat(item["expires_at"]).year < 9999


@pytest.mark.parametrize(
    ("keep_alive", "text"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("", 'time: invalid duration ""'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        ("5m3", 'time: missing unit in duration "5m3"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_what_is_no_duration_is_an_error(client: httpx.Client, keep_alive: Any, text: str) -> None:
    assert error_of(chat(client, keep_alive=keep_alive)) == text
    assert error_of(generate(client, prompt="", keep_alive=keep_alive)) == text


@pytest.mark.parametrize("ask", [chat, generate])
def test_a_request_with_zero_runs_and_then_unloads(client: httpx.Client, ask: Any) -> None:
    assert answer_of(ask(client, model=HELPER, keep_alive=0))["done_reason"] == "length"
    assert gone(client)


def test_the_clock_starts_after_the_answer_and_runs_out(client: httpx.Client) -> None:
    answer_of(chat(client, model=HELPER, keep_alive="500ms"))
    assert resident(client, HELPER)
    assert gone(client)
    assert answer_of(chat(client, model=HELPER))["load_duration"] > 10_000_000


def test_each_use_restarts_the_clock(client: httpx.Client) -> None:
    empty_chat(client, keep_alive=60)
    first = seconds_left(client)
    empty_chat(client, keep_alive=300)
    assert seconds_left(client) > first + 100


def test_a_model_at_work_shows_a_date_and_is_unloaded_after_it(
    server: RunningServer, client: httpx.Client
) -> None:
    empty_chat(client, keep_alive=600)
    body = chat_body(model=HELPER, stream=True, options={"num_predict": 40})
    with server.client() as other, other.stream("POST", "/api/chat", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        assert 500 < seconds_left(client) <= 600
        assert empty_generate(client, keep_alive=0)["done_reason"] == "unload"
        last = httpx.Response(200, content=list(lines)[-1]).json()
    assert last["done"] is True
    assert gone(client)


def test_ps_lists_the_one_that_stays_longest_first(client: httpx.Client) -> None:
    answer_of(generate(client, prompt="", keep_alive=-1))
    empty_chat(client, keep_alive=60)
    names = [model["name"] for model in client.get("/api/ps").json()["models"]]
    assert names == [GENERATOR, HELPER]
