"""When a server that fails is left alone."""

from server.remote.breaker import FAILURES, FIRST_REST_S, LONGEST_REST_S, Breaker


def broken(now_s: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(now_s)
    return breaker


def test_it_stays_closed_below_the_limit() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(100.0)
    assert not breaker.is_open
    assert breaker.wait_s(100.0) == 0


def test_a_success_between_counts() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(100.0)
        breaker.succeeded()
    assert not breaker.is_open


def test_it_opens_for_a_while() -> None:
    breaker = broken()
    assert breaker.wait_s(100.0) == FIRST_REST_S
    assert breaker.wait_s(100.0 + FIRST_REST_S) == 0


def test_one_try_goes_and_the_others_wait_for_it() -> None:
    breaker = broken()
    now_s = 100.0 + FIRST_REST_S
    breaker.begin(now_s)
    assert breaker.wait_s(now_s) > 0
    breaker.succeeded()
    assert breaker.wait_s(now_s) == 0


def test_a_try_that_tells_nothing_lets_the_next_one_go() -> None:
    breaker = broken()
    now_s = 100.0 + FIRST_REST_S
    breaker.begin(now_s)
    breaker.undecided(now_s)
    assert breaker.wait_s(now_s) == 0


def test_a_try_that_never_ends_does_not_keep_it_open_for_ever() -> None:
    breaker = broken()
    breaker.begin(102.0)
    assert breaker.wait_s(102.0 + 31) == 0


def test_each_rest_is_twice_as_long_up_to_a_limit() -> None:
    breaker, now_s, rests = broken(), 100.0, []
    for _ in range(8):
        rests.append(breaker.wait_s(now_s))
        now_s += rests[-1]
        breaker.begin(now_s)
        breaker.failed(now_s)
    assert rests == [2, 4, 8, 16, 32, LONGEST_REST_S, LONGEST_REST_S, LONGEST_REST_S]
    assert breaker.opened == 1
    breaker.succeeded()
    for _ in range(FAILURES):
        breaker.failed(now_s)
    assert breaker.wait_s(now_s) == FIRST_REST_S
