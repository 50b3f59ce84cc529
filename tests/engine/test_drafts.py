"""Guesses from the prompt: what is proposed, and what it may cost. Without a model."""

from hypothesis import given
from hypothesis import strategies as st

from server.engine.drafts import MOST_TOKENS, SHORTEST_MATCH, Budget, guess
from server.engine.prefix import tokens_of

STEP_S = 0.010


def test_what_followed_before_is_guessed() -> None:
    assert guess(tokens_of([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]), 2) == [4, 5]


def test_nothing_is_guessed_without_a_match_of_some_length() -> None:
    assert guess(tokens_of([1, 2, 3, 4, 9, 2, 3]), 5) == []
    assert guess(tokens_of([]), 5) == []
    assert guess(tokens_of([1, 1, 1]), 5) == []
    assert guess(tokens_of([1, 2, 3, 4, 1, 2, 3]), 0) == []


def test_the_longer_the_match_the_longer_the_guess() -> None:
    text = list(range(100, 150))
    lengths = [len(guess(tokens_of([*text, 7, *text[:known]]), 64)) for known in range(2, 12)]
    assert lengths[0] == 0
    assert lengths[1] == 2
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 16


def test_the_place_that_matches_longest_wins_over_a_later_one() -> None:
    tokens = tokens_of([5, 1, 2, 3, 40, 41, 6, 1, 2, 3, 50, 51, 5, 1, 2, 3])
    assert guess(tokens, 1) == [40]


def test_of_equal_places_the_last_one_wins() -> None:
    assert guess(tokens_of([1, 2, 3, 40, 1, 2, 3, 50, 1, 2, 3]), 1) == [50]


def test_guessing_leaves_the_tokens_free_to_grow() -> None:
    tokens = tokens_of([1, 2, 3, 4, 1, 2, 3])
    guess(tokens, 4)
    tokens.append(4)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 10))
def test_a_guess_always_stood_there_before(tokens: list[int], most: int) -> None:
    found = guess(tokens_of(tokens), most)
    assert len(found) <= most
    if found:
        wanted = [*tokens[-SHORTEST_MATCH:], *found]
        places = range(len(tokens) - SHORTEST_MATCH)
        assert any(tokens[place : place + len(wanted)] == wanted for place in places)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=300), st.floats(0.05, 2.0))
def test_wrong_guesses_cost_no_more_than_is_allowed(wishes: list[int], row_share: float) -> None:
    """However often it guesses wrong, a generation loses 1.5 steps at most and 1.5 % of its time."""
    budget, spent_s = Budget(), 0.0
    for wish in wishes:
        budget.earn(STEP_S)
        guessed = min(wish, budget.affordable(row_share * STEP_S))
        budget.pay(guessed, row_share * STEP_S)
        spent_s += guessed * row_share * STEP_S
        budget.gain(0)
    assert spent_s <= (1.5 + 0.015 * len(wishes)) * STEP_S + 1e-9


def test_right_guesses_pay_for_longer_ones() -> None:
    budget, row_s = Budget(), STEP_S / 5
    sizes = []
    for _ in range(5):
        budget.earn(STEP_S)
        sizes.append(min(24, budget.affordable(row_s)))
        budget.pay(sizes[-1], row_s)
        budget.gain(sizes[-1])
    assert sizes[0] < 10
    assert sizes[-1] == 24


def test_where_rows_cost_nothing_any_guess_is_affordable() -> None:
    budget = Budget()
    budget.earn(STEP_S)
    assert budget.affordable(0.0) == MOST_TOKENS


def test_guesses_that_cost_more_than_they_save_stop() -> None:
    """Every row costs as much as a step, as where the processor has no room left: half of them right."""
    budget, guessed_in_all = Budget(), 0
    for _ in range(200):
        budget.earn(STEP_S)
        size = min(8, budget.affordable(STEP_S))
        size = size if size >= 2 else 0
        budget.pay(size, STEP_S)
        budget.gain(size // 2)
        guessed_in_all += size
    assert guessed_in_all <= 10
