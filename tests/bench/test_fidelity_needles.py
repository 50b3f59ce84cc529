"""Values in a haystack."""

import pytest

from bench.fidelity.generated import generated
from bench.fidelity.needles import DEPTHS, Needle, asked, can_hold_needles, needles, planted
from bench.fidelity.recall import facts_of
from bench.fidelity.sessions import Request
from bench.fidelity.texts import spoken
from bench.prompts import repeatable
from server.routing.results import results_of


def tokens(text: str) -> int:
    return len(text) // 3


@pytest.fixture(scope="module")
def session() -> Request:
    found = generated(3, 20_000, tokens, edits=False)
    assert can_hold_needles(found)
    return found


@pytest.fixture(scope="module")
def hidden() -> list[Needle]:
    return list(needles(repeatable("needles")))


def test_every_form_and_depth_is_there_with_its_own_values(hidden: list[Needle]) -> None:
    assert {(needle.form, needle.depth) for needle in hidden} >= {
        (form, depth) for form in ("constant", "log line") for depth in DEPTHS
    }
    assert {needle.form for needle in hidden} >= {"several", "chained"}
    values = [value for needle in hidden for value in needle.values]
    assert len(set(values)) == len(values)


def test_needles_are_in_the_session_only_once_they_are_planted(
    session: Request, hidden: list[Needle]
) -> None:
    lines = [line for needle in hidden for line in needle.hidden]
    with_needles = spoken(planted(session, lines, repeatable("places")).messages)

    assert not any(needle.stands_in(spoken(session.messages)) for needle in hidden)
    assert all(needle.stands_in(with_needles) for needle in hidden)


def test_depth_is_the_place_in_the_session(session: Request, hidden: list[Needle]) -> None:
    def place_of(depth: int) -> int:
        needle = next(one for one in hidden if (one.form, one.depth) == ("constant", depth))
        messages = planted(session, needle.hidden, repeatable("places")).messages
        line = needle.hidden[0].line
        return next(result.key.message for result in results_of(messages) if line in result.text)

    places = [place_of(depth) for depth in DEPTHS]
    assert places == sorted(places)
    assert places[0] < places[2] < places[-1]


def test_lines_are_numbered_again_behind_a_needle(session: Request, hidden: list[Needle]) -> None:
    messages = planted(session, hidden[0].hidden, repeatable("places")).messages
    changed = next(r for r in results_of(messages) if hidden[0].hidden[0].line in r.text)

    numbers = [int(line.split("|")[0]) for line in changed.text.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_an_answer_is_right_if_it_says_every_value(hidden: list[Needle]) -> None:
    several = next(needle for needle in hidden if needle.form == "several")

    assert several.is_answered_by(f"They are {', '.join(several.values)}.")
    assert not several.is_answered_by(f"It is {several.values[0]}.")


def test_a_chain_asks_for_the_first_name_and_needs_both_lines(hidden: list[Needle]) -> None:
    chain = next(needle for needle in hidden if needle.form == "chained")

    first, second = chain.hidden
    assert first.line.split(" = ")[0] in chain.question
    assert second.line.split(" = ")[0] not in chain.question
    assert not chain.stands_in(first.line)
    assert chain.stands_in(f"{second.line}\n{first.line}")


def test_the_question_comes_last(session: Request, hidden: list[Needle]) -> None:
    messages = asked(session, hidden[0].question).messages

    assert [message.role for message in messages[-2:]] == ["assistant", "user"]
    assert messages[-1].content == hidden[0].question
    assert facts_of(messages).keys() == facts_of(session.messages).keys()
