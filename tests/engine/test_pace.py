"""What the engine learns of its own speed. No clock is read here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.pace import ReadingPace, StepCost


def test_before_anything_was_seen_nothing_costs_anything() -> None:
    cost = StepCost()
    assert (cost.known, cost.of(1), cost.per_row) == (False, 0.0, 0.0)


def test_a_line_is_found() -> None:
    cost = StepCost()
    for rows in (1, 1, 8, 1, 16, 1, 4) * 5:
        cost.see(rows, 0.050 + 0.010 * (rows - 1))
    assert cost.of(1) == pytest.approx(0.050, rel=0.05)
    assert cost.per_row == pytest.approx(0.010, rel=0.05)
    assert cost.of(16) == pytest.approx(0.200, rel=0.05)


def test_as_long_as_all_steps_were_alike_a_row_is_guessed() -> None:
    cost = StepCost()
    for _ in range(50):
        cost.see(1, 0.050)
    assert cost.of(1) == pytest.approx(0.050)
    assert 0.05 * 0.050 < cost.per_row < 0.5 * 0.050


def test_it_follows_a_machine_that_slows_down() -> None:
    cost = StepCost()
    for seconds in (0.010, 0.040):
        for _ in range(300):
            cost.see(1, seconds)
            cost.see(9, 2 * seconds)
    assert cost.of(1) == pytest.approx(0.040, rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), max_size=50), st.integers(1, 64))
def test_costs_are_never_negative(seen: list[tuple[int, float]], rows: int) -> None:
    cost = StepCost()
    for size, seconds in seen:
        cost.see(size, seconds)
    assert cost.of(rows) >= 0
    assert cost.per_row >= 0


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
