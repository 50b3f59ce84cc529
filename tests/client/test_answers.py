"""An answer as it comes, and its figures in words."""

from collections.abc import Iterator
from typing import Any

import pytest

from server.client.answers import Answer, Listening, Piece, in_full, in_one_line, warnings
from server.client.near import near, no_such_model

LAST = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 6_000_000_000,
    "load_duration": 20_000_000,
    "prompt_eval_count": 3921,
    "prompt_eval_duration": 1_440_000_000,
    "eval_count": 128,
    "eval_duration": 2_000_000_000,
    "llm_optimizer": {
        "strategy": "B",
        "planned": "B",
        "reason": "up to STRATEGY_B_MAX = 6000: one pass",
        "tokens_received": 3921,
        "tokens_sent": 312,
        "tokens_cached": 24,
        "summaries": 1,
        "helper_duration": 2_840_000_000,
    },
}


def answer(**ours: Any) -> Answer:
    return Answer("Hello.", "", {**LAST, "llm_optimizer": {**LAST["llm_optimizer"], **ours}}, 0.5)  # type: ignore[dict-item]


def clock() -> Iterator[float]:
    yield from (10.0, 12.5)


def test_pieces_are_handed_on_and_kept() -> None:
    objects = [
        {"message": {"content": ""}, "done": False},
        {"message": {"content": "", "thinking": "hm"}, "done": False},
        {"message": {"content": "Hel"}, "done": False},
        {"message": {"content": "lo"}, "done": True, "eval_count": 2},
    ]
    times = clock()
    listening = Listening(lambda: next(times))
    assert [*listening.pieces(objects)] == [Piece("", "hm"), Piece("Hel"), Piece("lo")]
    whole = listening.answer
    assert (whole.words, whole.thinking, whole.first_token_s, whole.last) == ("Hello", "hm", 2.5, objects[-1])
    message = {"role": "assistant", "content": "Hello", "thinking": "hm"}
    assert whole.as_one_object == {"done": True, "eval_count": 2, "message": message}
    assert whole.message == {"role": "assistant", "content": "Hello"}


def test_what_was_stopped_has_no_end() -> None:
    times = clock()
    listening = Listening(lambda: next(times))
    next(listening.pieces([{"message": {"content": "Hel"}}, {"message": {"content": "lo"}}]))
    assert listening.answer == Answer("Hel", "", None, 2.5)


def test_one_line() -> None:
    assert in_one_line(answer()) == (
        "B 3,921 → 312 tokens (24 cached), 1 summary in 2.84 s"
        " · first token 0.50 s · 128 tokens at 64.0/s · 6.00 s"
    )
    alone = answer(strategy="A", tokens_sent=3921, tokens_cached=0, summaries=0)
    assert in_one_line(alone).startswith("A instead of B 3,921 tokens · first")
    squeezed = answer(strategy="A", planned="A", summaries=0, shortened=[{}, {}])
    assert in_one_line(squeezed).startswith("A 3,921 → 312 tokens (24 cached), 2 old results shortened · ")
    again = answer(summaries_reused=1, helper_duration=0)
    assert ", 1 summary, 1 of them from earlier turns · first" in in_one_line(again)
    assert in_one_line(Answer("", "", None, None)) == ""


def test_in_full() -> None:
    shortened = {
        "message": 4,
        "subject": "a.py",
        "how": "outline",
        "characters": 9000,
        "characters_sent": 800,
    }
    assert in_full(answer(shortened=[shortened], summaries=3, summaries_reused=2)) == [
        "strategy     B",
        "because      up to STRATEGY_B_MAX = 6000: one pass",
        "prompt       3,921 → 312 tokens (24 cached)",
        "helper       3 summaries, 2 of them from earlier turns in 2.84 s",
        "first token  0.50 s",
        "loading      0.02 s",
        "reading      288 tokens in 1.44 s, 200/s",
        "answer       128 tokens at 64.0/s",
        "in all       6.00 s",
        "ended by     stop",
        "shortened    message 4, a.py: outline, 9,000 → 800 characters",
    ]


def test_what_nobody_should_miss() -> None:
    assert warnings(answer()) == []
    told = warnings(answer(dropped_messages=8, fallback="the helper failed", ignored=["num_gpu", "shift"]))
    assert len(told) == 3
    assert "8 oldest messages were left out" in told[0]
    assert told[1] == "not shortened: the helper failed"
    assert told[2] == "options without effect here: num_gpu, shift"
    cut_off = Answer("Hel", "", {"done_reason": "length"}, None)
    assert warnings(cut_off) == ["cut off: num_predict or the context window was reached"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("smollm2", ["smollm2:135m", "smollm2:135m-helper"]),
        ("SmolLM2:135", ["smollm2:135m", "smollm2:135m-helper"]),
        ("smolm2:135m", ["smollm2:135m", "smollm2:135m-helper"]),
        ("coder", ["qwen2.5-coder:7b"]),
        ("qwen2.5-coder:latest", ["qwen2.5-coder:7b"]),
        ("gpt-4o", []),
        ("", []),
    ],
)
def test_names_that_are_alike(name: str, found: list[str]) -> None:
    assert near(name, ["smollm2:135m", "smollm2:135m-helper", "qwen2.5-coder:7b"]) == found


def test_a_name_that_nobody_has() -> None:
    assert no_such_model("not found", "b", ["a:b", "b:c"]) == "not found; did you mean a:b or b:c?"
    assert '"llm-optimizer pull NAME"' in no_such_model("not found", "x", [])
