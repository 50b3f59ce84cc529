"""Which replica comes first."""

import pytest

from server.cluster.affinity import Candidate, Has, Holders, order
from server.cluster.beginnings import Beginnings

TALK = Beginnings("m:latest", b"opening", (b"1", b"2", b"3"))
LATER = Beginnings("m:latest", b"opening", (b"1", b"2", b"3", b"4", b"5"))


def others(number: int) -> Beginnings:
    return Beginnings("m:latest", b"opening", (f"talk {number}".encode(),))


def idle(*names: str) -> list[Candidate]:
    return [Candidate(name, 0) for name in names]


def loaded(**loads: int) -> list[Candidate]:
    return [Candidate(name, load) for name, load in loads.items()]


def test_a_conversation_goes_where_it_was() -> None:
    for name in "abc":
        holders = Holders()
        holders.learn(TALK, name)
        assert order(LATER, idle("a", "b", "c"), holders)[0] == name


def test_the_one_that_has_read_more_of_it_comes_first() -> None:
    holders = Holders()
    holders.learn(LATER, "a")
    holders.learn(TALK, "b")
    assert order(LATER, idle("a", "b"), holders)[0] == "a"


def test_of_those_that_have_read_as_much_the_idler_and_then_the_last_one() -> None:
    holders = Holders()
    holders.learn(TALK, "a")
    holders.learn(TALK, "b")
    assert order(TALK, idle("a", "b"), holders)[0] == "b"
    assert order(TALK, loaded(a=0, b=1), holders)[0] == "a"


@pytest.mark.parametrize(("load", "first"), [(4, "a"), (5, "b")])
def test_it_leaves_a_replica_that_has_far_more_to_do(load: int, first: str) -> None:
    holders = Holders()
    holders.learn(TALK, "a")
    assert order(LATER, loaded(a=load, b=0), holders, spill=4)[0] == first


def test_a_new_conversation_goes_where_least_is_to_be_done() -> None:
    assert order(TALK, loaded(a=2, b=1, c=3), Holders()) == ["b", "a", "c"]


def test_among_equals_the_one_that_knows_the_system_prompt() -> None:
    holders = Holders()
    holders.learn(others(0), "b")
    assert order(TALK, idle("a", "b", "c"), holders)[0] == "b"
    assert order(TALK, loaded(a=0, b=1), holders)[0] == "a", "a system prompt is no home"


def test_a_hash_tells_equals_apart_and_all_ingresses_agree() -> None:
    firsts = [order(others(n), idle("a", "b"), Holders())[0] for n in range(200)]
    assert firsts == [order(others(n), idle("b", "a"), Holders())[0] for n in range(200)]
    assert 70 < firsts.count("a") < 130


def test_one_replica_more_moves_only_what_goes_to_it() -> None:
    before = [order(others(n), idle("a", "b", "c"), Holders())[0] for n in range(300)]
    after = [order(others(n), idle("a", "b", "c", "d"), Holders())[0] for n in range(300)]
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {new for _, new in moved} == {"d"}
    assert 45 < len(moved) < 105


def test_a_replica_that_is_gone_is_forgotten() -> None:
    holders = Holders()
    holders.learn(TALK, "a")
    holders.learn(TALK, "b")
    holders.learn(others(1), "a")
    holders.keep_only({"b", "c"})
    assert holders.of(b"1") == ("b",)
    assert holders.of(b"talk 1") == ()
    assert order(LATER, idle("b", "c"), holders)[0] == "b"


def test_no_more_is_remembered_than_allowed_and_the_oldest_goes_first() -> None:
    holders = Holders(most=4)
    holders.learn(TALK, "a")
    holders.learn(others(1), "b")
    assert len(holders) == 4
    assert holders.of(b"1") == ()
    assert holders.of(b"2") == ("a",)
    assert holders.of(b"opening") == ("b", "a"), "asked for again, so not the oldest"


def test_what_replicas_say_of_themselves_counts_without_replacing_what_is_known() -> None:
    holders = Holders()
    holders.learn(TALK, "a")
    holders.hear([b"1", b"elsewhere"], "b")
    assert holders.of(b"1") == ("a", "b")
    assert holders.of(b"elsewhere") == ("b",)
    assert order(Beginnings("m", b"o", (b"elsewhere", b"more")), idle("a", "b", "c"), holders)[0] == "b"


def test_a_replica_that_has_the_model_loaded_comes_first_and_one_without_it_last() -> None:
    found = order(
        TALK,
        [Candidate("a", 0, Has.NOT), Candidate("b", 0, Has.ON_DISK), Candidate("c", 3, Has.LOADED)],
        Holders(),
    )
    assert found == ["c", "b", "a"]


def test_loading_it_elsewhere_is_better_than_far_too_long_a_queue() -> None:
    candidates = [Candidate("a", 9, Has.LOADED), Candidate("b", 0, Has.ON_DISK), Candidate("c", 0, Has.NOT)]
    assert order(TALK, candidates, Holders()) == ["b", "a", "c"]


def test_who_has_lost_the_model_is_nobodys_home() -> None:
    holders = Holders()
    holders.learn(TALK, "a")
    assert order(TALK, [Candidate("a", 0, Has.NOT), Candidate("b", 0)], holders) == ["b", "a"]


def test_a_model_that_nobody_has_is_asked_for_all_the_same() -> None:
    candidates = [Candidate("a", 1, Has.NOT), Candidate("b", 0, Has.NOT)]
    assert order(TALK, candidates, Holders()) == ["b", "a"]
    assert order(TALK, [], Holders()) == []
