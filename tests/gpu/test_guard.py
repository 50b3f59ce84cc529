import pytest

from server.gpu.guard import Level, missing_bytes, next_level

MARGIN = 1000


@pytest.mark.parametrize(
    ("level", "free", "wanted"),
    [
        (Level.CALM, 499, Level.WAIT),
        (Level.WAIT, 499, Level.REST),
        (Level.REST, 0, Level.SPILL),
        (Level.SPILL, 499, Level.LEAVE),
        (Level.LEAVE, 0, Level.LEAVE),
        # Between the two marks nothing changes.
        (Level.CALM, 500, Level.CALM),
        (Level.CALM, 749, Level.CALM),
        (Level.WAIT, 500, Level.WAIT),
        (Level.LEAVE, 749, Level.LEAVE),
        (Level.WAIT, 750, Level.CALM),
        (Level.LEAVE, 750, Level.CALM),
        (Level.LEAVE, None, Level.CALM),
        (Level.CALM, None, Level.CALM),
    ],
)
def test_one_step_for_each_look(level: Level, free: int | None, wanted: Level) -> None:
    assert next_level(level, free, MARGIN) is wanted


def test_no_margin_is_never_short() -> None:
    assert next_level(Level.CALM, 0, 0) is Level.CALM


def test_a_free_memory_that_swings_about_one_mark_does_not_swing_the_level() -> None:
    level = Level.CALM
    seen = []
    for free in (495, 505, 495, 505, 700, 505):
        level = next_level(level, free, MARGIN)
        seen.append(level)
    assert seen == [Level.WAIT, Level.WAIT, Level.REST, Level.REST, Level.REST, Level.REST]


def test_what_is_missing() -> None:
    assert (missing_bytes(300, MARGIN), missing_bytes(2000, MARGIN)) == (700, 0)
