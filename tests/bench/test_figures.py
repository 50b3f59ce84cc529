"""Ratios, spreads and verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Bar, Better, Measured, Spread

FIGURES = st.lists(st.floats(0.001, 1000), min_size=1, max_size=20)


def test_the_ratio_is_that_of_the_medians() -> None:
    measured = Measured((10.0, 30.0, 20.0), (10.0, 5.0, 40.0))

    assert measured.ratio == 2.0
    assert measured.ratios == Spread(0.75, 1.0, 3.5)


def test_ours_can_be_compared_with_ours() -> None:
    measured = Measured(ours=(1.0,), theirs=(50.0,), against=(10.0,))

    assert measured.ratio == 0.1
    assert measured.ratios.median == 0.1


@pytest.mark.parametrize(
    ("better", "ratio", "met"),
    [
        (Better.HIGHER, 1.04, False),
        (Better.HIGHER, 1.05, True),
        (Better.HIGHER, 2.0, True),
        (Better.LOWER, 1.06, False),
        (Better.LOWER, 1.05, True),
        (Better.LOWER, 0.5, True),
    ],
)
def test_a_bar_is_met_on_its_better_side_and_on_itself(better: Better, ratio: float, met: bool) -> None:
    assert Bar(better, 1.05).is_met(ratio) is met


@given(FIGURES)
def test_quartiles_are_in_order_and_within_the_figures(values: list[float]) -> None:
    spread = Spread.of(values)

    assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)


def test_no_figures_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no figures"):
        Spread.of([])


def test_figures_of_unequal_number_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        _ = Measured((1.0, 2.0), (1.0,)).ratios
