"""Who leaves a device for another model."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.service.room import Idle, who_must_go


def idle(name: str, freed_bytes: int, last_used_s: float, *, stays: bool = False) -> Idle:
    return Idle(name, freed_bytes, last_used_s, stays)


OLD, NEW = idle("old", 100, 1), idle("new", 100, 2)
PINNED, OLDER_PINNED = idle("pinned", 100, 0, stays=True), idle("older pinned", 100, -1, stays=True)


@pytest.mark.parametrize(
    ("missing_bytes", "loaded", "leaving"),
    [
        (50, [], ()),
        (50, [NEW], ("new",)),
        (100, [NEW, OLD], ("old",)),
        (101, [NEW, OLD], ("old", "new")),
        (201, [NEW, OLD], ()),
        (50, [PINNED, NEW], ("new",)),
        (150, [PINNED, NEW], ("new", "pinned")),
        (50, [PINNED, OLDER_PINNED], ("older pinned",)),
        (250, [PINNED, OLD, NEW], ("old", "new", "pinned")),
        # The first is not enough, and the second alone would have been.
        (300, [idle("small", 50, 1), idle("large", 400, 2)], ("large",)),
        (300, [idle("small", 50, 1), idle("middle", 200, 2), idle("large", 250, 3)], ("small", "large")),
        # Rather two that come and go than one that is to stay.
        (150, [PINNED, OLD, NEW], ("old", "new")),
        (150, [idle("pinned", 500, 0, stays=True), OLD, NEW], ("old", "new")),
        (10, [idle("nothing", 0, 0), NEW], ("new",)),
    ],
)
def test_who_goes(missing_bytes: int, loaded: list[Idle], leaving: tuple[str, ...]) -> None:
    for order in permutations(loaded):
        assert who_must_go(missing_bytes, order) == leaving


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5), st.booleans()), max_size=6),
)
def test_nobody_goes_in_vain(missing_bytes: int, facts: list[tuple[int, int, bool]]) -> None:
    loaded = [Idle(str(number), *fact) for number, fact in enumerate(facts)]
    sizes = {model.weights: model.freed_bytes for model in loaded}
    leaving = who_must_go(missing_bytes, loaded)
    if sum(sizes.values()) < missing_bytes:
        assert leaving == ()
    else:
        freed = sum(sizes[weights] for weights in leaving)
        assert freed >= missing_bytes
        assert all(freed - sizes[weights] < missing_bytes for weights in leaving)
