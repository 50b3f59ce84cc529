import itertools
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from server.domain.chat import Message, ToolCall
from server.routing.drop import UNITS_AT_ONCE, without_oldest

SYSTEM = Message("system", "Be brief.")
TASK = Message("user", "the task")
QUESTION = Message("user", "the question")


def turns(count: int) -> list[Message]:
    """Answers and the questions behind them."""
    return [
        message
        for number in range(count)
        for message in (Message("assistant", f"answer {number}"), Message("user", f"question {number}"))
    ]


def at_most(count: int) -> Callable[[Sequence[Message]], bool]:
    return lambda messages: len(messages) <= count


def test_the_oldest_go_and_the_task_stays() -> None:
    history = turns(20)
    chat = [SYSTEM, TASK, *history, Message("assistant", "last"), QUESTION]
    found = without_oldest(chat, at_most(len(chat) - 1))
    assert found is not None
    assert found == (SYSTEM, TASK, *history[2 * UNITS_AT_ONCE :], Message("assistant", "last"), QUESTION)
    roles = [message.role for message in found[1:]]
    assert all(here != there for here, there in itertools.pairwise(roles))


def test_the_next_turn_drops_the_same_ones() -> None:
    chat = [SYSTEM, TASK, *turns(30)]
    room = len(chat) - 3
    before = without_oldest(chat, at_most(room))
    after = without_oldest([*chat, *turns(1)], at_most(room))
    assert before is not None
    assert after is not None
    assert after[: len(before)] == before


def test_a_result_goes_with_its_call() -> None:
    call = ToolCall("look", {}, "call_1")
    loop = [Message("assistant", tool_calls=(call,)), Message("tool", "seen", tool_call_id="call_1")]
    chat = [TASK, *loop * 20, Message("assistant", "done"), QUESTION]
    found = without_oldest(chat, at_most(20))
    assert found is not None
    assert found[0] == TASK
    assert found[1].role == "assistant"
    assert found[-1] == QUESTION


def test_what_must_stay_may_still_be_too_long() -> None:
    assert without_oldest([SYSTEM, TASK, *turns(3), QUESTION], at_most(1)) is None
    assert without_oldest([TASK], at_most(0)) is None
    assert without_oldest([Message("assistant", "x")], at_most(0)) is None


@given(st.integers(0, 40), st.integers(0, 90))
def test_as_few_as_possible(count: int, room: int) -> None:
    chat = [SYSTEM, TASK, *turns(count), Message("assistant", "last"), QUESTION]
    found = without_oldest(chat, at_most(room))
    if found is None:
        assert room < 3
        return
    assert len(found) <= room
    one_step_less = len(chat) - len(found) - 2 * UNITS_AT_ONCE
    assert one_step_less <= 0 or len(chat) - one_step_less > room
    assert [message for message in chat if message in found] == list(found)
