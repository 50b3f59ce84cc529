"""Whether a broken conversation and a lost must-keep are noticed."""

from collections.abc import Callable, Collection
from dataclasses import replace

import pytest

from bench.fidelity.protection import broken_protocol, kept_word_for_word, protected
from bench.fidelity.texts import with_texts
from server.domain.chat import Message, ToolCall
from server.routing.results import Key, results_of
from server.routing.squeeze import Rung, Shortening
from tests.bench.test_fidelity_recall import call, result

LONG = "\n".join(f"{number} | line {number}" for number in range(1, 80))
SESSION = (
    Message("system", "Be brief."),
    Message("user", "Look."),
    call(1),
    result(1, "src/old.py", LONG),
    call(2),
    result(2, "src/named.py", LONG + "x"),
    call(3, "editor"),
    result(3, "edit:src/old.py", "Edited.", "editor"),
    call(4, "run_commands"),
    result(4, "make", "all is well", "run_commands"),
    replace(call(5, "run_commands"), content="Now to named.py."),
    result(5, "ls", "src", "run_commands"),
)
XML = (
    Message("user", "<task>Look.</task>"),
    Message("assistant", "<read_file>"),
    Message("user", f"[read_file for 'a.py'] Result:\n{LONG}\n# task_progress keep this"),
)


def changed(place: int, **fields: object) -> tuple[Message, ...]:
    return tuple(
        replace(message, **fields) if number == place else message  # type: ignore[arg-type]
        for number, message in enumerate(SESSION)
    )


def test_shorter_results_are_no_broken_protocol() -> None:
    assert not broken_protocol(SESSION, with_texts(SESSION, {Key(3, 0): "less"}))
    assert not broken_protocol(XML, with_texts(XML, {Key(2, 0): "less"}))


@pytest.mark.parametrize(
    "after",
    [
        SESSION[:-1],
        changed(0, content="Be quick."),
        changed(1, content="Look!"),
        changed(2, tool_calls=()),
        changed(2, tool_calls=(ToolCall("read_files", {}, "other"),)),
        changed(3, tool_call_id="other"),
        changed(3, role="user"),
        changed(3, content="less"),
        changed(3, content='{"query": "src/old.py", "result": "less", "success": true}'),
        changed(3, content='[{"query": "src/else.py", "result": "less", "success": true}]'),
        changed(3, content='[{"query": "src/old.py", "success": true}]'),
        changed(3, content='[{"query": "src/old.py", "result": "less", "success": false}]'),
        changed(10, content=""),
    ],
    ids=[
        "a message less",
        "system",
        "user",
        "no call",
        "id of a call",
        "id of a result",
        "role",
        "no JSON",
        "no list",
        "query",
        "no result",
        "success",
        "words of the model",
    ],
)
def test_anything_else_is(after: tuple[Message, ...]) -> None:
    assert broken_protocol(SESSION, after)


def test_a_users_words_around_a_result_stay() -> None:
    cut = replace(XML[2], content="[read_file for 'a.py'] Result:\nless\n")
    assert broken_protocol(XML, (*XML[:2], cut))


def test_edits_the_last_turns_and_named_files_are_protected() -> None:
    assert protected(SESSION) == {Key(5, 0), Key(7, 0), Key(9, 0), Key(11, 0)}
    assert protected(SESSION, turns=1, spare_files=False) == {Key(7, 0), Key(11, 0)}


def step(key: Key, rung: Rung) -> Shortening:
    return Shortening(next(one for one in results_of(SESSION) if one.key == key), rung, "less")


def sized(tokens: int) -> Callable[[Collection[Key]], int]:
    return lambda _: tokens


@pytest.mark.parametrize(
    ("taken", "rung", "tokens", "lost"),
    [
        (Key(3, 0), Rung.OUTLINE, 50, False),
        (Key(5, 0), Rung.OUTLINE, 50, True),
        (Key(5, 0), Rung.OUTLINE, 500, False),
        (Key(7, 0), Rung.OUTLINE, 500, True),
        (Key(11, 0), Rung.NOTE, 500, True),
        (Key(3, 0), Rung.NEWER_COPY, 50, True),
    ],
    ids=["old", "named", "named, above the limit", "edit", "last turn", "no newer copy"],
)
def test_a_step_takes_nothing_that_is_protected(taken: Key, rung: Rung, tokens: int, *, lost: bool) -> None:
    after = with_texts(SESSION, {taken: "less"})
    kept = kept_word_for_word(SESSION, after, [step(taken, rung)], 100, sized(tokens))

    assert bool(kept.lost) is lost
    assert not kept.broken
    assert kept.pieces == len(SESSION) - 5 + 4
