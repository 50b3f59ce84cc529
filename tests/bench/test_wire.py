"""Both servers' formats, read from lines that the real servers sent."""

import json

import pytest

from bench.wire import SAMPLED, AnswerFailed, Chat, LlamaCpp, Ollama, Request, TimedLine
from server.domain.chat import Message

OURS = (
    b'{"model":"bench:model","created_at":"2025-11-22T19:43:00.1Z","response":"","done":false}',
    b'{"model":"bench:model","created_at":"2025-11-22T19:43:00.2Z","response":"```","done":false}',
    b'{"model":"bench:model","created_at":"2025-11-22T19:43:00.3Z","response":"\\n","done":false}',
    b'{"model":"bench:model","created_at":"2025-11-22T19:43:00.4Z","response":"","done":true,'
    b'"done_reason":"length","total_duration":30000000,"prompt_eval_count":8,"prompt_eval_duration":9000000,'
    b'"eval_count":3,"eval_duration":2000000,"llm_optimizer":{"tokens_cached":5}}',
)
THEIRS = (
    b":",
    b"",
    b'data: {"index":0,"content":"```","tokens":[3725],"stop":false,"id_slot":-1,"tokens_predicted":1,'
    b'"tokens_evaluated":8}',
    b"",
    b'data: {"index":0,"content":"\\n","tokens":[198],"stop":false,"id_slot":-1,"tokens_predicted":2,'
    b'"tokens_evaluated":8}',
    b"",
    b'data: {"index":0,"content":"","tokens":[],"id_slot":7,"stop":true,"tokens_predicted":3,'
    b'"tokens_evaluated":8,"stop_type":"limit","tokens_cached":10,"timings":{"cache_n":5,"prompt_n":3}}',
    b"",
)


def timed(lines: tuple[bytes, ...]) -> list[TimedLine]:
    """Line number n arrived at second n."""
    return [(float(number), line) for number, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("dialect", "lines", "first_s", "ended_s"),
    [(Ollama(), OURS, 1.0, 3.0), (LlamaCpp(), THEIRS, 2.0, 6.0)],
    ids=["ours", "theirs"],
)
def test_an_answer_has_its_text_its_counts_and_its_times(
    dialect: Ollama | LlamaCpp, lines: tuple[bytes, ...], first_s: float, ended_s: float
) -> None:
    answer = dialect.answer(0.25, timed(lines))

    assert answer.text == "```\n"
    assert (answer.prompt_tokens, answer.cached_tokens, answer.generated_tokens) == (8, 5, 3)
    assert answer.first_token_s == first_s - 0.25
    assert answer.total_s == ended_s - 0.25


def test_speed_counts_the_tokens_after_the_first() -> None:
    # Three tokens, the first after one second, the last piece after two.
    assert Ollama().answer(0.0, timed(OURS)).tokens_per_s == pytest.approx(2.0)


def test_gaps_are_those_that_end_after_the_moment_asked_about() -> None:
    lines: list[TimedLine] = [(at_s, OURS[1]) for at_s in (1.0, 2.0, 5.0, 6.5)] + [(7.0, OURS[3])]

    assert Ollama().answer(0.5, lines).gaps_s(since_s=3.0) == [3.0, 1.5]


def test_a_chat_is_read_from_its_messages() -> None:
    chunk = b'{"message":{"role":"assistant","content":"Hi"},"done":false}'
    last = OURS[3].replace(b'"response":""', b'"message":{"role":"assistant","content":""}')

    assert Ollama().answer(0.0, [(1.0, chunk), (2.0, last)]).text == "Hi"


@pytest.mark.parametrize(
    ("dialect", "lines"),
    [
        (Ollama(), ()),
        (Ollama(), OURS[:-1]),
        (Ollama(), (b'{"error":"the model was unloaded"}',)),
        (Ollama(), (b"Internal Server Error",)),
        (LlamaCpp(), THEIRS[:-2]),
        (LlamaCpp(), (b'data: {"error":{"code":500,"message":"Context size has been exceeded."}}',)),
    ],
)
def test_what_is_no_whole_answer_is_refused(dialect: Ollama | LlamaCpp, lines: tuple[bytes, ...]) -> None:
    with pytest.raises(AnswerFailed):
        dialect.answer(0.0, timed(lines))


def test_an_answer_without_text_is_as_late_as_its_end() -> None:
    answer = Ollama().answer(0.25, timed((OURS[0], OURS[3])))

    assert (answer.text, answer.first_token_s) == ("", 0.75)


def test_both_servers_get_the_same_prompt_length_seed_and_sampling() -> None:
    request = Request("once", 7, seed=3, sampling=SAMPLED)

    path, ours = _call(Ollama(), request)
    assert (path, ours["prompt"], ours["raw"]) == ("/api/generate", "once", True)
    assert ours["options"] == {**dict(SAMPLED), "num_predict": 7, "seed": 3}

    path, theirs = _call(LlamaCpp(), request)
    assert path == "/completion"
    assert theirs == {
        **dict(SAMPLED),
        "prompt": "once",
        "n_predict": 7,
        "seed": 3,
        "stream": True,
        "ignore_eos": True,
    }


def test_a_chat_goes_to_ours_as_messages_and_to_theirs_as_a_prompt() -> None:
    tools = ({"type": "function", "function": {"name": "find"}},)
    request = Chat("<rendered>", 7, messages=(Message("user", "hello"),), tools=tools)

    path, ours = _call(Ollama(), request)
    assert (path, ours["messages"], ours["tools"]) == (
        "/api/chat",
        [{"role": "user", "content": "hello"}],
        list(tools),
    )
    assert _call(LlamaCpp(), request)[1]["prompt"] == "<rendered>"


def _call(dialect: Ollama | LlamaCpp, request: Request) -> tuple[str, dict[str, object]]:
    path, body = dialect.call(request)
    return path, json.loads(body)
