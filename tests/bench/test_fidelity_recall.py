"""Which facts are left, and at what age."""

import json

from bench.fidelity.recall import (
    Fact,
    FactClass,
    Seen,
    Tally,
    by_class,
    facts_of,
    losses,
    mean,
    summed,
    tallied,
)
from bench.fidelity.texts import spoken, stands_in, with_texts, without_line_numbers
from server.domain.chat import Message, ToolCall
from server.routing.results import Key


def call(number: int, tool: str = "read_files") -> Message:
    return Message("assistant", "", tool_calls=(ToolCall(tool, {}, f"c{number}"),))


def result(number: int, query: str, text: str, tool: str = "read_files") -> Message:
    content = json.dumps([{"query": query, "result": text, "success": True}])
    return Message("tool", content, tool_name=tool, tool_call_id=f"c{number}")


SESSION = (
    Message("user", "Look."),
    call(1),
    result(1, "src/old.py", "1 | max_size = 4711\n2 | other_name = 12"),
    call(2, "run_commands"),
    result(2, "make", "fatal: disk full\nsee src/log.txt", "run_commands"),
    call(3),
    result(3, "src/new.py", "1 | other_name = 99"),
)


def test_facts_have_the_age_of_their_last_sight() -> None:
    facts = facts_of(SESSION)

    assert facts[Fact(FactClass.IDENTIFIER, "max_size")] == Seen(2, "files .py")
    assert facts[Fact(FactClass.IDENTIFIER, "other_name")] == Seen(0, "files .py")
    assert facts[Fact(FactClass.ERROR, "fatal: disk full")] == Seen(1, "outputs")
    assert facts[Fact(FactClass.PATH, "src/log.txt")] == Seen(1, "outputs")


def test_the_clients_line_numbers_are_no_facts() -> None:
    numbers = {fact.text for fact in facts_of(SESSION) if fact.kind is FactClass.NUMBER}

    assert numbers == {"4711", "12", "99"}
    assert without_line_numbers(" 12 | x = 1\n113 | y") == "x = 1\ny"


def test_only_whole_words_count() -> None:
    assert stands_in("12", "a 3412, and 12.")
    assert not stands_in("12", "3412 and 120")
    assert stands_in("max_size", "(max_size)")
    assert not stands_in("max_size", "max_sizes")


def test_a_result_in_json_is_read_as_its_text() -> None:
    text = spoken(SESSION)

    assert "max_size = 4711\nother_name = 12" in text
    assert '"query"' not in text


def test_what_was_taken_out_is_not_recalled() -> None:
    shortened = with_texts(SESSION, {Key(2, 0): "nothing"})
    tallies = tallied(facts_of(SESSION), spoken(shortened))

    assert by_class(tallies)[FactClass.IDENTIFIER] == Tally(1, 2)
    assert by_class(tallies)[FactClass.NUMBER] == Tally(1, 3)
    assert by_class(tallies)[FactClass.ERROR] == Tally(1, 1)
    assert 0 < mean(tallies) < 1
    assert mean(tallied(facts_of(SESSION), spoken(SESSION))) == 1.0


def test_losses_come_by_the_share_of_their_class() -> None:
    tallies = tallied(facts_of(SESSION), spoken(with_texts(SESSION, {Key(2, 0): ""})))

    (first, *_) = losses(tallies)
    assert first == (FactClass.NUMBER, "files .py", 2, 2 / 3)
    assert summed([tallies, tallies])[FactClass.NUMBER, "0-2", "files .py"] == Tally(2, 6)
