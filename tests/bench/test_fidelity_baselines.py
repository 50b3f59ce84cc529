"""What Ollama drops, and what chance drops."""

from collections.abc import Callable, Sequence

import pytest

from bench.fidelity.baselines import BLOCK_LINES, front_truncated, without_random_blocks
from bench.fidelity.methods import Method, Scale, at_equal_size, one_step, shortened
from bench.fidelity.sessions import Request
from bench.prompts import repeatable
from server.domain.chat import Message
from tests.bench.test_fidelity_recall import call, result

LINES = "\n".join(f"{number} | line_{number} = {number * 37}" for number in range(1, 301))
SESSION = (
    Message("system", "Be brief."),
    Message("user", "Look."),
    *(message for number in range(5) for message in (call(number), result(number, f"f{number}.py", LINES))),
)


def size(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)


def within(characters: int) -> Callable[[Sequence[Message]], bool]:
    return lambda messages: size(messages) <= characters


def test_the_oldest_messages_go_but_the_system_prompt_stays() -> None:
    left = front_truncated(SESSION, within(len(LINES) * 3))

    assert left[0] == SESSION[0]
    assert left[1:] == SESSION[-len(left) + 1 :]
    assert size(left) <= len(LINES) * 3
    assert size((SESSION[0], *SESSION[-len(left) :])) > len(LINES) * 3


def test_the_last_message_stays_whether_it_fits_or_not() -> None:
    assert front_truncated(SESSION, within(10)) == (SESSION[0], SESSION[-1])


def test_what_fits_is_left_alone() -> None:
    assert front_truncated(SESSION, within(10**6)) == SESSION
    assert without_random_blocks(SESSION, within(10**6), repeatable("x")) == SESSION


def test_random_blocks_go_until_it_fits_and_the_same_ones_each_time() -> None:
    budget = size(SESSION) // 2
    left = without_random_blocks(SESSION, within(budget), repeatable("x"))

    assert budget - 3 * BLOCK_LINES * 30 < size(left) <= budget
    assert [message.role for message in left] == [message.role for message in SESSION]
    assert left == without_random_blocks(SESSION, within(budget), repeatable("x"))
    assert left != without_random_blocks(SESSION, within(budget), repeatable("y"))


@pytest.mark.parametrize("share", [0.45, 0.7])
def test_all_methods_get_no_more_than_ours(share: float) -> None:
    scale = Scale(lambda text: len(text) // 3, lambda _: 50)
    request = Request(SESSION)
    tokens = scale.tokens(request)
    ours = shortened(request, one_step(tokens, share), scale)
    prompts = at_equal_size(request, ours, scale, "x")

    assert ours.steps == 1
    assert ours.tokens < 0.9 * tokens
    assert prompts[Method.UNTOUCHED] == SESSION
    assert all(scale.tokens(request, prompts[one]) <= ours.tokens for one in Method if one != "untouched")
