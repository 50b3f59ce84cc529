"""What the engine learns of its own speed. No clock is read here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.pace import ReadingPace, StepCost


def test_before_anything_was_seen_nothing_costs_anything() -> None:
    assert StepCost().of(1) == 0.0


def test_each_size_has_its_own_cost() -> None:
    cost = StepCost()
    for rows, seconds in ((1, 0.010), (4, 0.040), (8, 0.050)):
        cost.see(rows, seconds)
    assert [cost.of(rows) for rows in (1, 4, 8)] == [0.010, 0.040, 0.050]


def test_between_two_sizes_it_is_a_line() -> None:
    cost = StepCost()
    cost.see(4, 0.040)
    cost.see(8, 0.080)
    assert cost.of(6) == pytest.approx(0.060)


def test_beyond_the_largest_a_row_is_guessed() -> None:
    cost = StepCost()
    cost.see(1, 0.010)
    assert cost.of(3) == pytest.approx(0.010 + 2 * 0.003)
    cost.see(4, 0.012)
    assert cost.of(5) == pytest.approx(0.015)


def test_below_the_smallest_it_is_that() -> None:
    cost = StepCost()
    cost.see(4, 0.040)
    assert cost.of(2) == 0.040


def test_it_follows_a_machine_that_slows_down() -> None:
    cost = StepCost()
    for seconds in (0.010, 0.040):
        for _ in range(100):
            cost.see(1, seconds)
    assert cost.of(1) == pytest.approx(0.040, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), max_size=50), st.integers(1, 64))
def test_costs_are_within_what_was_seen(seen: list[tuple[int, float]], rows: int) -> None:
    cost = StepCost()
    for size, seconds in seen:
        cost.see(size, seconds)
    assert cost.of(rows) >= 0
    if seen and rows <= max(size for size, _ in seen):
        assert cost.of(rows) <= max(seconds for _, seconds in seen) + 1e-9


def test_a_piece_is_as_long_as_the_stall_allows() -> None:
    pace = ReadingPace()
    assert pace.tokens_in(0.25, least=32, most=512) == 32
    pace.see(tokens=100, seconds=0.5)
    assert pace.tokens_in(0.25, least=32, most=512) == 50
    assert pace.tokens_in(0.01, least=32, most=512) == 32
    assert pace.tokens_in(9.0, least=32, most=512) == 512


def test_an_instant_piece_breaks_nothing() -> None:
    pace = ReadingPace()
    pace.see(tokens=10, seconds=-0.001)
    assert pace.tokens_in(0.25, least=32, most=512) == 512
