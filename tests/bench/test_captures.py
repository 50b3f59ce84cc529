"""Recorded sessions."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.captures import Extent, Session, marked, prompts_of, read_session
from bench.prompts import Prompter

SYSTEM = {"role": "system", "content": "You work on a code base."}
TASK = {"role": "user", "content": "Find the bug."}
CALL = {"id": "1", "type": "function", "function": {"name": "read", "arguments": {"path": "a.py"}}}
LOOK = {"role": "assistant", "content": None, "tool_calls": [CALL]}
FOUND = {"role": "tool", "content": "x" * 400, "tool_call_id": "1", "tool_name": "read"}
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("read", "write")]
EVERYTHING = Extent(tokens=8000, turns=9, tools=9, result_characters=1000)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    turns: list[list[dict[str, Any]]] = [[SYSTEM, TASK], [SYSTEM, TASK, LOOK, FOUND]]
    for number, messages in enumerate(turns):
        body = {"model": "any", "messages": messages, "tools": TOOLS}
        (tmp_path / f"{number:03}.json").write_text(json.dumps(body))
        (tmp_path / f"{number:03}.response.json").write_text("[]")
    found = read_session(tmp_path)
    assert found is not None
    return found


def test_requests_are_read_in_order_without_the_responses(session: Session) -> None:
    assert [[message.role for message in turn] for turn in session.turns] == [
        ["system", "user"],
        ["system", "user", "assistant", "tool"],
    ]
    assert session.turns[1][2].tool_calls[0].arguments == {"path": "a.py"}
    assert [tool["function"]["name"] for tool in session.tools] == ["read", "write"]


def test_no_folder_is_no_session(tmp_path: Path) -> None:
    assert read_session(tmp_path / "nothing") is None


def test_each_turn_begins_like_the_one_before(session: Session, embedded_model: Path) -> None:
    first, second = prompts_of(session, Prompter(embedded_model), EVERYTHING)

    assert second.startswith(first.removesuffix("<|im_start|>assistant\n"))
    assert "x" * 400 in second


@pytest.mark.parametrize(
    ("extent", "turns"),
    [
        (EVERYTHING, 2),
        (Extent(tokens=8000, turns=1, tools=9, result_characters=1000), 1),
        (Extent(tokens=110, turns=9, tools=9, result_characters=1000), 1),
        (Extent(tokens=10, turns=9, tools=9, result_characters=1000), 0),
    ],
    ids=["all", "turns", "tokens", "nothing fits"],
)
def test_a_session_ends_where_its_extent_does(
    session: Session, embedded_model: Path, extent: Extent, turns: int
) -> None:
    prompter = Prompter(embedded_model)
    prompts = prompts_of(session, prompter, extent)

    assert len(prompts) == turns
    assert all(prompter.vocabulary.count(prompt) <= extent.tokens for prompt in prompts)


def test_tools_and_results_are_cut(session: Session, embedded_model: Path) -> None:
    extent = Extent(tokens=8000, turns=9, tools=1, result_characters=50)
    *_, last = prompts_of(session, Prompter(embedded_model), extent)

    assert '"read"' in last
    assert '"write"' not in last
    assert "x" * 50 in last
    assert "x" * 51 not in last


def test_marks_stand_in_front_of_the_system_text_and_the_task_of_every_turn(session: Session) -> None:
    for turn in marked(session, "run 1", "task 2").turns:
        assert turn[0].content == "run 1\nYou work on a code base."
        assert turn[1].content == "task 2\nFind the bug."
        assert [message.content for message in turn[2:]] == ["", "x" * 400][: len(turn) - 2]
