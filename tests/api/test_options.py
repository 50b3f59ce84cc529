"""``options``: every one of them, its types, its limits, its effect."""

import time
from collections import Counter
from typing import Any

import httpx
import pytest

from server.api.options import (
    FLOATS,
    INTEGERS,
    SERVER_SIDE,
    read_format,
    read_keep_alive,
    read_options,
)
from server.domain.errors import InvalidRequest
from server.domain.generation import Sampling
from tests.api.asking import answer_of, chat, error_of, generate, settled
from tests.running import RunningServer

KINDS = {
    **dict.fromkeys(FLOATS, "float32"),
    **dict.fromkeys(INTEGERS, "integer"),
    **SERVER_SIDE,
    "stop": "array",
}
WRONG: dict[str, tuple[Any, ...]] = {
    "float32": ("1", True, [], {}, 10**400),
    "integer": ("1", True, [], {}, 10**400, -(10**400)),
    "boolean": ("true", 1, 0.0, []),
    "array": (5, True, {}),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, kind in KINDS.items() for value in WRONG[kind]]
)
def test_a_wrong_type_is_told_in_ollamas_words(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f'^option "{name}" must be of type {KINDS[name]}$'):
        read_options({name: value})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", ["temperature", "seed"])
def test_what_is_not_finite_is_no_number(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match="must be of type"):
        read_options({name: value})


@pytest.mark.parametrize("value", [[1], [None], ["a", 5], [["a"]]])
def test_stop_is_a_list_of_strings(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be of type an array of strings"):
        read_options({"stop": value})


def test_defaults_are_ollamas() -> None:
    options = read_options({})
    assert options.sampling == Sampling(0.8, 40, 0.9, 0.0, 1.0, 1.0, 64, 0.0, 0.0, None)
    assert (options.max_tokens, options.stop, options.context_tokens, options.ignored) == (
        None,
        None,
        None,
        (),
    )


@pytest.mark.parametrize("name", [*KINDS, "mirostat", "nonsense"])
def test_null_is_as_good_as_absent(name: str) -> None:
    assert read_options({name: None}) == read_options({})


@pytest.mark.parametrize(
    ("name", "field"), [("top_k", "top_k"), ("seed", "seed"), ("repeat_last_n", "repeat_last_n")]
)
def test_whole_numbers_may_be_floats(name: str, field: str) -> None:
    assert getattr(read_options({name: 7.9}).sampling, field) == 7


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0, 0), (3, 3), (3.7, 3), (-1, None), (-2, None), (None, None), (1e300, int(1e300))],
)
def test_num_predict(given: Any, expected: int | None) -> None:
    assert read_options({"num_predict": given}).max_tokens == expected


def test_a_single_stop_string_counts_as_a_list() -> None:
    assert read_options({"stop": "end"}).stop == ("end",)


def test_a_seed_of_minus_one_is_random() -> None:
    assert read_options({"seed": -1}).sampling.seed is None
    assert read_options({"seed": 0}).sampling.seed == 0


def test_what_has_no_effect_is_named() -> None:
    given = {**dict.fromkeys(SERVER_SIDE, 1), "use_mmap": True, "mirostat": [], "numa": "x", "num_ctx": 5}
    assert set(read_options(given).ignored) == {*SERVER_SIDE, "mirostat", "numa"}


@pytest.mark.parametrize("value", [None, ""])
def test_no_format(value: Any) -> None:
    assert read_format(value) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (5, 5),
        (0.5, 0.5),
        ("0", 0),
        ("0s", 0),
        ("300", 300),
        ("300ms", 0.3),
        ("1.5h", 5400),
        ("2h45m", 9900),
        ("5m", 300),
        (-1, float("inf")),
        ("-1", float("inf")),
        ("-1m", float("inf")),
        (10**400, float("inf")),
    ],
)
def test_keep_alive(value: Any, seconds: float | None) -> None:
    assert read_keep_alive(value) == seconds


@pytest.mark.parametrize("ask", [chat, generate])
@pytest.mark.parametrize("name", ["temperature", "num_ctx", "use_mmap", "stop", "num_thread"])
def test_a_wrong_type_is_400_streamed_or_not(client: httpx.Client, ask: Any, name: str) -> None:
    for stream in (True, False):
        text = error_of(ask(client, options={name: {}}, stream=stream))
        assert text == f'option "{name}" must be of type {KINDS[name]}'


def test_a_load_checks_its_options_too(client: httpx.Client) -> None:
    error_of(chat(client, messages=[], options={"num_ctx": "x"}))
    error_of(generate(client, prompt="", options=[]))


SIZES = [0, 1, -1, -7, 0.5, 1e-45, 1e-300, 1e39, -1e39, 1e300, 2**31, 2**32 - 1, 2**64, -(2**64)]


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_no_size_of_a_number_breaks_anything(client: httpx.Client, name: str) -> None:
    for size in SIZES:
        limit = {"num_predict": 1} if name != "num_predict" else {"stop": ["e", "o", "a", "i", "u", "."]}
        answer_of(generate(client, options={**limit, name: size}))


@pytest.mark.parametrize("last_n", [-1, 0, 1, 10**9, 2**31 - 1, 2**63])
def test_penalties_look_back_no_further_than_the_window(client: httpx.Client, last_n: int) -> None:
    # Room for 2**31 tokens takes half a minute to allocate, where it does not end the process.
    began = time.monotonic()
    answer_of(generate(client, options={"num_predict": 2, "repeat_penalty": 1.2, "repeat_last_n": last_n}))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("stream", [True, False])
def test_ignored_options_reach_the_answer_and_the_log(
    server: RunningServer, client: httpx.Client, stream: bool
) -> None:
    before = len(server.log)
    options = {"num_predict": 1, "mirostat": 2, "zzz": None, "num_thread": 2, "numa": False}
    response = chat(client, options=options, stream=stream)
    last = httpx.Response(200, content=response.content.splitlines()[-1]).json()
    assert last["llm_optimizer"]["ignored"] == ["mirostat", "num_thread", "numa"]
    logged = [line for line in server.log[before:] if "options ignored" in line]
    assert len(logged) == 1
    assert logged[0].endswith("/api/chat: options ignored: mirostat, num_thread, numa")


def test_a_load_names_its_ignored_options(client: httpx.Client) -> None:
    answer = answer_of(chat(client, messages=[], options={"low_vram": True}))
    assert answer["llm_optimizer"] == {"ignored": ["low_vram"]}
    assert "llm_optimizer" not in answer_of(chat(client, messages=[]))


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (5, 5), (2.9, 2)])
def test_num_predict_limits_the_answer(client: httpx.Client, limit: float, count: int) -> None:
    answer = answer_of(chat(client, options={"num_predict": limit, "temperature": 0}))
    assert (answer["eval_count"], answer["done_reason"]) == (count, "length")


def test_num_predict_zero_generates_nothing(client: httpx.Client) -> None:
    answer = answer_of(generate(client, options={"num_predict": 0}))
    assert (answer["response"], answer["done_reason"]) == ("", "length")
    assert not {"eval_count", "eval_duration"} & answer.keys()


def test_num_predict_minus_one_is_no_limit(client: httpx.Client) -> None:
    # A small model may talk for ever: counting surely comes to the stop string.
    options = {"num_predict": -1, "temperature": 0, "stop": ["40"]}
    answer = answer_of(generate(client, raw=True, prompt="11, 12, 13, 14, 15, 16, 17,", options=options))
    assert answer["done_reason"] == "stop"
    assert answer["eval_count"] > 64


@pytest.mark.parametrize("stop", [["four"], "four", ["", "zzz", " four"]])
@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_ends_the_answer_and_stays_out(client: httpx.Client, stop: Any, stream: bool) -> None:
    options = {"num_predict": 30, "temperature": 0, "stop": stop}
    prompt = "one, two, three, four, five, six, one, two, three, four, five, six, one, two, three,"
    response = generate(client, raw=True, prompt=prompt, options=options, stream=stream)
    chunks = [httpx.Response(200, content=line).json() for line in response.content.splitlines()]
    assert chunks[-1]["done_reason"] == "stop"
    assert "".join(chunk["response"] for chunk in chunks) in {"", " "}


def test_temperature_zero_is_greedy(client: httpx.Client) -> None:
    settled(generate, client)
    texts = {
        answer_of(generate(client, options={"num_predict": 6, "temperature": 0, "seed": seed}))["response"]
        for seed in range(3)
    }
    assert len(texts) == 1


def test_a_seed_makes_an_answer_that_comes_again(client: httpx.Client) -> None:
    def say(seed: int) -> str:
        options = {"num_predict": 5, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "seed": seed}
        return str(answer_of(generate(client, prompt="Tell me a story.", options=options))["response"])

    # What else lies in the cache moves the last digits of the model's sums, and now and then a pick
    # with them; without the seed, equal texts would hardly ever come.
    again = Counter(say(7) for _ in range(7))
    assert again.most_common(1)[0][1] >= 3, again
    assert len({say(seed) for seed in range(5)}) > 1


def test_top_k_one_is_greedy_too(client: httpx.Client) -> None:
    greedy = settled(generate, client, options={"num_predict": 4, "temperature": 0})["response"]
    options = {"num_predict": 4, "temperature": 2.0, "top_k": 1}
    assert answer_of(generate(client, options=options))["response"] == greedy


def test_penalties_change_an_answer(client: httpx.Client) -> None:
    prompt = "the cat sat on the mat. the cat sat on the mat. the cat sat on the"
    plain: dict[str, Any] = {"num_predict": 6, "temperature": 0}
    told = {"raw": True, "prompt": prompt}
    repeated = answer_of(generate(client, **told, options=plain))["response"]
    assert repeated == " mat. the cat sat on"
    for penalty in ({"repeat_penalty": 5.0}, {"presence_penalty": 50.0}, {"frequency_penalty": 50.0}):
        assert answer_of(generate(client, **told, options={**plain, **penalty}))["response"] != repeated


@pytest.mark.parametrize("num_ctx", [1, 2048, 8192, 100_000, 2**40])
def test_num_ctx_never_shrinks_what_is_loaded_nor_passes_what_was_trained(
    client: httpx.Client, num_ctx: int
) -> None:
    answer = answer_of(chat(client, options={"num_predict": 1, "num_ctx": num_ctx}))
    assert answer["llm_optimizer"]["context_tokens"] == 8192
