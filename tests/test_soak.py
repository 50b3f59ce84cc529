"""The soak run's own judgement; the run itself takes minutes and is started by hand."""

import importlib.util
import json
import mmap
import os
import random
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.running import PROJECT


def load() -> ModuleType:
    """scripts/ is no package: the file is read as a module of its own."""
    spec = importlib.util.spec_from_file_location("soak", PROJECT / "scripts" / "soak.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module


soak = load()

LAST = {
    "model": "m",
    "done": True,
    "done_reason": "stop",
    "total_duration": 1,
    "load_duration": 0,
    "prompt_eval_count": 1,
    "prompt_eval_duration": 1,
    "eval_count": 2,
    "eval_duration": 1,
}
PIECE = {"model": "m", "done": False, "response": "a"}


def seeded() -> random.Random:
    return random.Random(7)  # noqa: S311


def faults(*chunks: Any, stream: bool = True, complete: bool = True, status: int = 200) -> list[str]:
    body = {"model": "m", "stream": stream, "options": {"num_predict": 2}}
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    found: list[str] = soak.faults_of(soak.Plan("/api/chat", body), soak.Answer(status, lines, complete))
    return found


def test_good_answers() -> None:
    assert faults(PIECE, PIECE, LAST) == []
    assert faults(LAST, stream=False) == []
    assert faults(PIECE, complete=False) == []
    assert faults(complete=False) == []


@pytest.mark.parametrize(
    ("chunks", "fault"),
    [
        ([], "does not end"),
        ([PIECE], "does not end"),
        ([LAST, PIECE], "does not end"),
        ([LAST, LAST], "does not end"),
        ([PIECE, "{"], "no JSON"),
        ([PIECE, ""], "no JSON"),
        (["[]"], "no JSON object"),
        ([PIECE, {"error": "broken"}], "broken"),
        ([{**LAST, "model": "n"}], "another model"),
        ([{**LAST, "done_reason": "load"}], "done_reason load"),
        ([{**LAST, "eval_count": 3}], "3 tokens of 2"),
        ([{**LAST, "eval_count": 0}], "0 tokens of 2"),
        ([{**LAST, "eval_duration": None}], "no eval_duration"),
    ],
)
def test_bad_answers(chunks: list[Any], fault: str) -> None:
    assert fault in " ".join(faults(*chunks))


def test_a_stream_where_none_was_wanted_and_a_bad_status() -> None:
    assert "without a stream" in faults(PIECE, LAST, stream=False)[0]
    assert faults('{"error":"busy"}', status=503) == ['status 503: {"error":"busy"}']


def test_an_error_counts_after_a_hang_up_too() -> None:
    assert faults({"error": "broken"}, complete=False)


def test_requests_are_of_all_kinds_and_the_same_for_the_same_seed() -> None:
    dice = seeded()
    plans = [soak.draw_plan(dice, "m") for _ in range(400)]
    again = seeded()
    assert plans == [soak.draw_plan(again, "m") for _ in range(400)]
    assert {plan.path for plan in plans} == {"/api/chat", "/api/generate"}
    assert {plan.body["stream"] for plan in plans} == {True, False}
    assert {plan.manner for plan in plans} == {
        "answered",
        "hung up at once",
        "hung up while the prompt was read",
        "hung up in mid-stream",
    }
    assert any("format" in plan.body for plan in plans)
    assert all(plan.body["stream"] for plan in plans if plan.hang_up_after_lines)
    chats = [plan.body["messages"] for plan in plans if plan.path == "/api/chat"]
    assert all(messages[-1]["role"] == "user" for messages in chats)


def test_prompts_are_mostly_short_and_many_begin_alike() -> None:
    dice = seeded()
    prompts = [soak.prompt_words(dice) for _ in range(400)]
    lengths = sorted(map(len, prompts))
    assert lengths[0] == 1
    assert lengths[200] < 150
    assert 2000 < lengths[-1] <= soak.LONGEST_PROMPT_TOKENS
    beginnings = [tuple(prompt[:8]) for prompt in prompts if len(prompt) > 20]
    assert len(beginnings) - len(set(beginnings)) > len(beginnings) // 4


def test_memory_is_compared_after_the_warm_up() -> None:
    loading = [(float(at), 10 * at) for at in range(100)]
    steady = [(float(at), 1000 + at % 2) for at in range(100, 200)]
    memory = soak.memory_of(loading + steady, 100)
    assert memory.first_bytes in {1000, 1001}
    assert not memory.grew
    assert abs(memory.slope_bytes_per_hour) < 50


def test_the_course_of_memory_is_short() -> None:
    shown = soak.course([(float(at), at * soak.MIB) for at in range(1000)])
    assert shown.split()[:3] == ["0", "50", "100"]
    assert len(shown.split()) == 20
    assert soak.course([(0.0, soak.MIB)]) == "1"


def test_memory_that_grows_is_found() -> None:
    step = soak.MOST_GROWTH_BYTES // 100
    memory = soak.memory_of([(float(at), at * step) for at in range(200)], 50)
    assert memory.grew
    assert memory.slope_bytes_per_hour == pytest.approx(step * 3600)


def test_too_few_samples_say_nothing() -> None:
    assert soak.memory_of([(1.0, 5)] * 4, 0) is None


def test_the_summary_names_errors_and_figures() -> None:
    findings = soak.Findings(first_token_s=[1.0, 2.0, 9.0], prompt_tokens=7, generated_tokens=8)
    findings.outcomes["answered"] = 3
    findings.fail("broken")
    findings.fail("broken")
    text = soak.summary(findings, soak.Memory(2**20, 2 * 2**20, 0.0))
    for words in (
        "3  answered",
        "2  failed",
        "median 2.00 s, longest 9.00 s",
        "error, 2 times: broken",
        "2.0 MiB",
    ):
        assert words in text


def test_figures_of_the_engines() -> None:
    models = [
        {"name": "a", "slots": {"total": 8, "running": 2, "queued": 1}},
        {"name": "b", "cells_in_use": 9},
    ]
    assert soak.engine_figures(models) == {"running of a": 2, "queued of a": 1, "cells_in_use of b": 9}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"response":"a"}', True),
        ('{"message":{"content":"a"}}', True),
        ('{"message":{"content":""},"done":true}', True),
        ('{"message":{"content":""},"done":false}', False),
        ("{", False),
        ("[]", False),
    ],
)
def test_the_first_token_is_not_the_first_chunk(line: str, said: bool) -> None:
    assert soak.says_something(line) == said


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("12:00:00 ERROR engine failed", True),
        ("Traceback (most recent call last):", True),
        ("/api/chat: direto GPU0 (3 tokens, stream=True)", False),
    ],
)
def test_faults_in_the_log(line: str, fault: bool) -> None:
    assert soak.is_fault(line) == fault


def test_memory_that_was_taken_counts_before_it_is_touched() -> None:
    before = soak.memory_bytes(os.getpid())
    with mmap.mmap(-1, 64 * soak.MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        taken, touched = soak.memory_bytes(os.getpid())
        assert taken - before[0] >= 64 * soak.MIB
        assert touched - before[1] < 16 * soak.MIB
        pages.write(bytes(64 * soak.MIB))
        assert soak.memory_bytes(os.getpid())[1] - before[1] >= 64 * soak.MIB
