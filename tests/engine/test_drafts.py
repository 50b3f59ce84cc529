"""Guesses from the prompt: what is proposed, and what it may cost. Without a model."""

from hypothesis import given
from hypothesis import strategies as st

from server.engine.drafts import SHORTEST_MATCH, Record, Savings, best_length, guess
from server.engine.pace import StepCost
from server.engine.prefix import tokens_of

STEP_S = 0.010


def test_what_followed_before_is_guessed() -> None:
    assert guess(tokens_of([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]), 2).tokens == [4, 5]


def test_nothing_is_guessed_without_a_match_of_some_length() -> None:
    assert guess(tokens_of([1, 2, 3, 4, 9, 2, 3]), 5).tokens == []
    assert guess(tokens_of([]), 5).tokens == []
    assert guess(tokens_of([1, 1, 1]), 5).tokens == []
    assert guess(tokens_of([1, 2, 3, 4, 1, 2, 3]), 0).tokens == []


def test_the_longer_the_match_the_longer_the_guess() -> None:
    text = list(range(100, 150))
    lengths = [len(guess(tokens_of([*text, 7, *text[:known]]), 64).tokens) for known in range(2, 12)]
    assert lengths[0] == 0
    assert lengths[1] == 2
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 16


def test_the_place_that_matches_longest_wins_over_a_later_one() -> None:
    tokens = tokens_of([5, 1, 2, 3, 40, 41, 6, 1, 2, 3, 50, 51, 5, 1, 2, 3])
    assert guess(tokens, 1).tokens == [40]


def test_of_equal_places_the_last_one_wins() -> None:
    assert guess(tokens_of([1, 2, 3, 40, 1, 2, 3, 50, 1, 2, 3]), 1).tokens == [50]


def test_guessing_leaves_the_tokens_free_to_grow() -> None:
    tokens = tokens_of([1, 2, 3, 4, 1, 2, 3])
    guess(tokens, 4)
    tokens.append(4)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 10))
def test_a_guess_always_stood_there_before(tokens: list[int], most: int) -> None:
    found = guess(tokens_of(tokens), most).tokens
    assert len(found) <= most
    if found:
        wanted = [*tokens[-SHORTEST_MATCH:], *found]
        places = range(len(tokens) - SHORTEST_MATCH)
        assert any(tokens[place : place + len(wanted)] == wanted for place in places)


def costs(first_s: float, row_s: float, known: int = 65) -> StepCost:
    cost = StepCost()
    for rows in range(1, known):
        cost.see(rows, first_s + row_s * (rows - 1))
    return cost


RICH_S = 1000.0


def test_where_rows_are_cheap_a_likely_guess_is_as_long_as_it_can_be() -> None:
    assert best_length(24, 0.95, 1, costs(STEP_S, STEP_S / 100), RICH_S) == 24


def test_where_rows_are_dear_nothing_is_guessed() -> None:
    assert best_length(24, 0.99, 1, costs(STEP_S, STEP_S), RICH_S) == 0


def test_the_less_likely_the_shorter() -> None:
    lengths = [
        best_length(48, chance, 1, costs(STEP_S, STEP_S / 8), RICH_S) for chance in (0.2, 0.6, 0.8, 0.97)
    ]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1] > 12) == (0, True)


def test_beside_other_answers_a_row_must_save_more() -> None:
    cost = costs(STEP_S, STEP_S / 5)
    assert best_length(8, 0.8, 1, cost, RICH_S) > best_length(8, 0.8, 8, cost, RICH_S)


def test_no_step_takes_longer_than_can_be_spent() -> None:
    cost = costs(STEP_S, STEP_S / 10)
    for spendable in (0.0, 0.2, 0.5, 1.0):
        length = best_length(48, 0.99, 1, cost, spendable * STEP_S)
        assert cost.of(1 + length) - cost.of(1) <= spendable * STEP_S + 1e-12


@given(st.integers(0, 64), st.floats(0.01, 0.99), st.integers(1, 8), st.floats(0, 1), st.integers(1, 20))
def test_a_length_is_none_or_some_up_to_the_most(
    most: int, chance: float, streams: int, row_share: float, known: int
) -> None:
    length = best_length(most, chance, streams, costs(STEP_S, row_share * STEP_S, known), RICH_S)
    assert length == 0 or 2 <= length <= most


def test_before_anything_is_known_nothing_is_guessed() -> None:
    assert best_length(8, 0.9, 1, StepCost(), RICH_S) == 0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=300), st.integers(SHORTEST_MATCH, 48))
def test_wrong_guesses_cost_no_more_than_is_allowed(wishes: list[float], matched: int) -> None:
    """However often it guesses wrong, an engine loses 1 % of its time and what a match is trusted with."""
    savings, spent_s = Savings(), 0.0
    for wish in wishes:
        savings.earn(STEP_S)
        extra_s = min(wish * STEP_S, savings.spendable_s(matched))
        if extra_s > 0:
            savings.settle(0, extra_s)
            spent_s += extra_s
    assert spent_s <= (min(matched / 4, 4) + 0.01 * len(wishes)) * STEP_S + 1e-9


def sizes_while_all_is_right(cost: StepCost, most: int, matched: int, steps: int) -> list[int]:
    savings, record, sizes = Savings(), Record(), []
    for _ in range(steps):
        savings.earn(STEP_S)
        length = best_length(most, record.chance(matched), 1, cost, savings.spendable_s(matched))
        record.note(length, length)
        savings.settle(length, cost.of(1 + length) - cost.of(1))
        sizes.append(length)
    return sizes


def test_right_guesses_pay_for_longer_ones() -> None:
    sizes = sizes_while_all_is_right(costs(STEP_S, STEP_S / 5), most=24, matched=20, steps=6)
    assert 2 <= sizes[0] < 24
    assert sizes[-1] == 24


def test_short_guesses_earn_what_a_long_one_takes_that_alone_pays() -> None:
    """So it is on a processor whose attention takes fewer than 64 rows one by one."""
    cost = StepCost()
    for rows, steps in {1: 1.0, 2: 1.9, 3: 2.7, 4: 3.4, 8: 6.4, 16: 12.0, 32: 23.0, 64: 25.0}.items():
        cost.see(rows, steps * STEP_S)
    sizes = sizes_while_all_is_right(cost, most=63, matched=40, steps=60)
    assert 0 < sizes[0] < 8
    assert sizes[-1] == 63


def test_a_long_guess_is_tried_though_its_price_is_only_known_for_short_ones() -> None:
    """Rows up to 33 were seen to cost nearly as much as a step of their own each, as they do there."""
    cost = StepCost()
    for rows in (1, 3, 4, 5, 7, 9, 13, 17, 25, 33):
        cost.see(rows, (1 + 0.78 * (rows - 1)) * STEP_S)
    assert 63 in sizes_while_all_is_right(cost, most=63, matched=48, steps=60)


def test_what_was_only_watched_counts_as_well() -> None:
    """A copy is seen to be one before anything is spent on it, and prose is seen not to be one."""
    copying, telling = Record(), Record()
    for _ in range(12):
        copying.note(1, 1)
        telling.note(1, 0)
    assert copying.chance(3) > 0.9
    assert telling.chance(3) < 0.3


def test_a_short_match_is_trusted_with_less() -> None:
    savings = Savings()
    savings.earn(STEP_S)
    assert savings.spendable_s(3) < STEP_S < savings.spendable_s(16)


def test_the_record_counts_more_than_the_match() -> None:
    lucky, unlucky = Record(), Record()
    for _ in range(10):
        lucky.note(8, 8)
        unlucky.note(8, 0)
    assert lucky.chance(3) > 0.95
    assert unlucky.chance(30) < 0.4
    assert Record().chance(3) < Record().chance(30)


def test_of_a_wrong_guess_only_the_first_wrong_token_counts() -> None:
    """Behind it, the model was asked about a text that it would not have written."""
    long, short = Record(), Record()
    long.note(63, 10)
    short.note(11, 10)
    assert long.chance(20) == short.chance(20) > 0.9


def test_a_bad_record_fades() -> None:
    record = Record()
    record.note(8, 0)
    at_first = record.chance(30)
    for _ in range(30):
        record.note(2, 2)
    assert record.chance(30) > 0.9 > at_first
