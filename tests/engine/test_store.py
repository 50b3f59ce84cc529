"""States outside the KV cache: what is found, what is kept, what goes, and what comes back from disk."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from server.engine.disktier import DiskTier
from server.engine.prefix import Tokens, tokens_of
from server.engine.store import StateStore, Stored

PLENTY = 1 << 40
FEW = st.lists(st.integers(0, 2), max_size=7)
SOME = st.lists(st.integers(0, 2), min_size=1, max_size=7)


def store_of(*entries: list[int], ram_bytes: int = PLENTY, trimmable: bool = True) -> StateStore:
    """A store that holds a state of 10 bytes for each of ``entries``, none of them superseded."""
    store = StateStore(ram_bytes, None, trimmable=trimmable)
    for entry in entries:
        store.put(tokens_of(entry), bytes(10), lasting=True)
    return store


def keep(store: StateStore, ids: list[int], state: bytes = bytes(10)) -> None:
    store.put(tokens_of(ids), state, lasting=False)


def found(store: StateStore, prompt: list[int], most_tokens: int = 1000) -> Stored | None:
    return store.best_match(tokens_of(prompt), most_tokens=most_tokens)


def state_of(store: StateStore, ids: list[int]) -> object:
    """The state for exactly these tokens, or None."""
    match = found(store, [*ids, -1])
    return store.take(match) if match and match.tokens == match.held == len(ids) else None


def shared(left: list[int], right: list[int]) -> int:
    length = 0
    while length < min(len(left), len(right)) and left[length] == right[length]:
        length += 1
    return length


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kvstate"))


@contextmanager
def writers_kept_waiting(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, as another process does while it makes room."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@given(st.lists(SOME, max_size=6), FEW, st.integers(0, 7), st.booleans())
def test_the_best_match_is_the_longest(
    entries: list[list[int]], prompt: list[int], most_tokens: int, trimmable: bool
) -> None:
    lengths = [
        (min(shared(entry, prompt), len(prompt) - 1), len(entry))
        for entry in entries
        if len(entry) <= most_tokens
    ]
    usable = [(tokens, -held) for tokens, held in lengths if tokens > 0 and (trimmable or tokens == held)]
    match = found(store_of(*entries, trimmable=trimmable), prompt, most_tokens)
    assert (match and (match.tokens, -match.held)) == max(usable, default=None)


def test_the_matched_state_is_the_one_that_was_put() -> None:
    store = StateStore(PLENTY, None)
    states = {(1, 2, 3): b"first", (1, 2, 4): b"second", (5,): b"third"}
    for ids, state in states.items():
        keep(store, list(ids), state)
    for ids, state in states.items():
        match = found(store, [*ids, 9])
        assert match is not None
        assert (match.tokens, match.held) == (len(ids), len(ids))
        assert store.take(match) is state


def test_a_state_that_cannot_be_cut_must_begin_the_prompt() -> None:
    store = store_of([1, 2], [1, 2, 3, 4], trimmable=False)
    match = found(store, [1, 2, 3, 5])
    assert match is not None
    assert (match.tokens, match.held) == (2, 2)
    assert found(store, [1, 2]) is None


def test_a_state_that_does_not_fit_the_context_is_out() -> None:
    store = store_of([1, 2, 3, 4])
    assert found(store, [1, 2, 3], most_tokens=3) is None
    assert found(store, [1, 2, 3], most_tokens=4) is not None


def test_the_caller_s_tokens_may_grow() -> None:
    store = StateStore(PLENTY, None)
    tokens = tokens_of([1, 2])
    store.put(tokens, b"state", lasting=False)
    tokens.append(3)
    assert not store.holds(tokens, lasting=False)
    assert state_of(store, [1, 2]) == b"state"


def test_a_longer_state_takes_a_shorter_one_s_place() -> None:
    store = StateStore(PLENTY, None)
    keep(store, [1, 2])
    keep(store, [1, 3])
    keep(store, [1, 2, 3])
    assert store.entries == 2
    assert store.ram_bytes == 20
    assert store.evictions == 0
    assert state_of(store, [1, 2]) is None


def test_a_shorter_state_adds_nothing() -> None:
    store = StateStore(PLENTY, None)
    keep(store, [1, 2, 3])
    assert store.holds(tokens_of([1, 2]), lasting=False)
    keep(store, [1, 2])
    assert store.entries == 1


def test_states_that_cannot_be_cut_stand_beside_each_other() -> None:
    store = StateStore(PLENTY, None, trimmable=False)
    keep(store, [1, 2])
    keep(store, [1, 2, 3])
    keep(store, [1])
    assert store.entries == 3
    assert not store.holds(tokens_of([1, 2, 3, 4]), lasting=False)
    keep(store, [1, 2], b"again")
    assert store.entries == 3
    assert store.holds(tokens_of([1, 2]), lasting=False)


def test_a_lasting_state_is_not_superseded() -> None:
    store = store_of([1, 2])
    keep(store, [1, 2, 3])
    assert store.entries == 2


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("trimmable", [False, True])
def test_a_lasting_state_stands_beside_longer_ones(lasting: bool, trimmable: bool) -> None:
    store = StateStore(PLENTY, None, trimmable=trimmable)
    store.put(tokens_of([1, 2, 3]), b"longer", lasting=lasting)
    assert not store.holds(tokens_of([1, 2]), lasting=True)
    store.put(tokens_of([1, 2]), b"lasting", lasting=True)
    assert store.entries == 2
    assert store.holds(tokens_of([1, 2]), lasting=True)
    store.put(tokens_of([1, 2]), b"again", lasting=True)
    assert store.entries == 2
    assert state_of(store, [1, 2]) == b"lasting"


def test_a_state_becomes_a_lasting_one() -> None:
    store = StateStore(PLENTY, None)
    keep(store, [1, 2])
    store.put(tokens_of([1, 2]), b"lasting", lasting=True)
    keep(store, [1, 2, 3])
    assert store.entries == 2
    assert state_of(store, [1, 2]) == b"lasting"


def test_what_was_used_longest_ago_goes_first() -> None:
    store = StateStore(30, None)
    for first in (1, 2, 3):
        keep(store, [first, 0])
    assert state_of(store, [1, 0]) is not None
    keep(store, [2])
    keep(store, [4])
    keep(store, [5])
    assert store.evictions == 2
    assert [state_of(store, [first, 0]) is not None for first in (1, 2, 3)] == [False, True, False]
    assert store.ram_bytes == 30


def test_a_state_larger_than_the_budget_costs_nobody_his_place(caplog: pytest.LogCaptureFixture) -> None:
    store = StateStore(30, None)
    keep(store, [1])
    keep(store, [1, 2], bytes(31))
    keep(store, [1, 3], bytes(31))
    assert state_of(store, [1]) is not None
    assert store.entries == 1
    assert store.evictions == 0
    assert ["host_cache_mib" in line for line in warnings(caplog)] == [True]
    keep(store, [1, 4], bytes(30))
    assert state_of(store, [1, 4]) == bytes(30)


def test_a_match_whose_state_has_gone_meanwhile() -> None:
    store = StateStore(10, None)
    keep(store, [1])
    match = found(store, [1, 2])
    keep(store, [2])
    assert match is not None
    assert store.take(match) is None
    assert store.entries == 1


def test_a_buffer_counts_in_bytes() -> None:
    store = StateStore(PLENTY, None)
    store.put(tokens_of([1]), memoryview(bytes(80)).cast("Q"), lasting=False)
    assert store.ram_bytes == 80


def test_a_lasting_state_comes_back_after_a_restart(tmp_path: Path) -> None:
    before = StateStore(PLENTY, DiskTier(tmp_path, PLENTY, "a"))
    before.put(tokens_of([1, 2]), b"lasting", lasting=True)
    keep(before, [3, 4])
    before.close()
    assert before.ram_bytes == 10
    assert before.disk_bytes == sum(path.stat().st_size for path in files_of(tmp_path))
    assert state_of(before, [1, 2]) == b"lasting"
    after = StateStore(PLENTY, DiskTier(tmp_path, PLENTY, "a"))
    assert (after.entries, after.ram_bytes, after.disk_bytes) == (1, 0, before.disk_bytes)
    assert after.holds(tokens_of([1, 2]), lasting=True)
    assert state_of(after, [1, 2]) == b"lasting"
    assert StateStore(PLENTY, DiskTier(tmp_path, PLENTY, "b")).entries == 0


def test_a_state_serves_while_it_is_written_and_is_beside_the_budget(tmp_path: Path) -> None:
    store = StateStore(20, DiskTier(tmp_path, PLENTY, "a"))
    with writers_kept_waiting(tmp_path):
        store.put(tokens_of([1, 2]), bytes(30), lasting=True)
        assert store.writing
        for first in (3, 4, 5):
            keep(store, [first])
        assert store.evictions == 1
        assert [state_of(store, [first]) is not None for first in (3, 4, 5)] == [False, True, True]
        assert state_of(store, [1, 2]) == bytes(30)
        assert (store.ram_bytes, store.disk_bytes, store.entries) == (50, 0, 3)
    store.close()
    assert (store.ram_bytes, store.writing) == (20, False)
    assert state_of(store, [1, 2]) == bytes(30)


def test_without_any_memory_lasting_states_still_get_to_disk(tmp_path: Path) -> None:
    store = StateStore(0, DiskTier(tmp_path, PLENTY, "a"))
    store.put(tokens_of([1, 2]), b"lasting", lasting=True)
    keep(store, [3])
    store.close()
    assert state_of(store, [1, 2]) == b"lasting"
    assert (store.ram_bytes, store.entries, store.keeps_any) == (0, 1, True)
    assert not StateStore(0, None).keeps_any


def test_a_state_on_disk_does_not_make_room_in_memory(tmp_path: Path) -> None:
    store = StateStore(20, DiskTier(tmp_path, PLENTY, "a"))
    store.put(tokens_of([1, 2]), b"0123456789", lasting=True)
    store.close()
    for first in (3, 4, 5):
        keep(store, [first])
    assert [state_of(store, [first]) is not None for first in (3, 4, 5)] == [False, True, True]
    assert state_of(store, [1, 2]) == b"0123456789"


def test_a_lasting_state_stays_in_memory_without_a_disk(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    folder.write_text("a file")
    store = StateStore(20, DiskTier(folder, PLENTY, "a"))
    store.put(tokens_of([1, 2]), b"0123456789", lasting=True)
    store.close()
    assert state_of(store, [1, 2]) == b"0123456789"
    assert (store.ram_bytes, store.disk_bytes) == (10, 0)


def test_a_state_too_large_for_the_disk_stays_in_memory_and_may_go(tmp_path: Path) -> None:
    store = StateStore(1000, DiskTier(tmp_path, 500, "a"))
    store.put(tokens_of([1, 2]), bytes(600), lasting=True)
    store.close()
    assert state_of(store, [1, 2]) == bytes(600)
    assert store.ram_bytes == 600
    keep(store, [3], bytes(600))
    assert state_of(store, [1, 2]) is None
    assert store.evictions == 1


def test_what_the_disk_gave_up_is_no_longer_offered(tmp_path: Path) -> None:
    store = StateStore(PLENTY, DiskTier(tmp_path, 2000, "a"))
    for first in range(5):
        store.put(tokens_of([first]), bytes(700), lasting=True)
    store.close()
    assert store.entries == len(files_of(tmp_path)) == 2
    assert store.evictions == 3
    assert store.disk_bytes <= 2000
    assert [state_of(store, [first]) is not None for first in range(5)] == [False] * 3 + [True] * 2


def test_a_use_spares_a_file(tmp_path: Path) -> None:
    writer = StateStore(PLENTY, DiskTier(tmp_path, PLENTY, "a"))
    for first in range(3):
        writer.put(tokens_of([first, 0]), bytes(700), lasting=True)
    writer.close()
    store = StateStore(PLENTY, DiskTier(tmp_path, writer.disk_bytes + 100, "a"))
    assert state_of(store, [0, 0]) is not None
    store.put(tokens_of([1, 0]), bytes(700), lasting=True)
    store.put(tokens_of([3, 0]), bytes(700), lasting=True)
    store.close()
    assert [state_of(store, [first, 0]) is not None for first in range(4)] == [True, True, False, True]


@pytest.mark.parametrize("fault", ["gone", "damaged"])
def test_a_file_that_cannot_be_read_is_dropped(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = StateStore(PLENTY, DiskTier(tmp_path, PLENTY, "a"))
    store.put(tokens_of([1, 2]), b"lasting", lasting=True)
    store.close()
    file = files_of(tmp_path)[0]
    if fault == "gone":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size - 1)
    caplog.clear()
    match = found(store, [1, 2, 3])
    assert match is not None
    assert store.take(match) is None
    assert [file.name in record.getMessage() for record in caplog.records] == [True]
    assert found(store, [1, 2, 3]) is None
    assert (store.entries, store.disk_bytes) == (0, 0)
    assert not store.holds(tokens_of([1, 2]), lasting=True)


def test_two_stores_share_a_folder(tmp_path: Path) -> None:
    scopes = ["generator", "helper"]
    stores = [StateStore(PLENTY, DiskTier(tmp_path, PLENTY, scope)) for scope in scopes]
    for number in range(10):
        for store, scope in zip(stores, scopes, strict=True):
            store.put(tokens_of([number]), f"{scope} {number}".encode(), lasting=True)
    for store in stores:
        store.close()
    for scope in scopes:
        again = StateStore(PLENTY, DiskTier(tmp_path, PLENTY, scope))
        assert [state_of(again, [number]) for number in range(10)] == [
            f"{scope} {number}".encode() for number in range(10)
        ]


def test_hundreds_of_long_states_are_searched_quickly() -> None:
    prompt = tokens_of(range(10_000))
    store = StateStore(PLENTY, None)
    for number in range(300):
        store.put(prompt[: 9_000 + number] + tokens_of([-1]), b"x", lasting=True)
    best_s = min(_search_s(store, prompt) for _ in range(5))
    assert best_s < 0.1


def _search_s(store: StateStore, prompt: Tokens) -> float:
    begin = time.perf_counter()
    match = store.best_match(prompt, most_tokens=PLENTY)
    assert match is not None
    assert match.tokens == 9_299
    return time.perf_counter() - begin


class Budget(RuleBasedStateMachine):
    """Whatever is put and taken, memory keeps to its budget and states to their tokens."""

    matches = Bundle("matches")

    def __init__(self) -> None:
        super().__init__()
        self.store = StateStore(100, None)
        self.state_of: dict[tuple[int, ...], set[bytes]] = {}

    @rule(ids=SOME, size=st.integers(0, 120), lasting=st.booleans())
    def put(self, ids: list[int], size: int, lasting: bool) -> None:
        state = os.urandom(size)
        held = self.store.holds(tokens_of(ids), lasting=lasting)
        self.store.put(tokens_of(ids), state, lasting=lasting)
        assert self.store.holds(tokens_of(ids), lasting=lasting) == (held or size <= 100)
        self.state_of.setdefault(tuple(ids), set()).add(state)

    @rule(target=matches, prompt=SOME)
    def look_up(self, prompt: list[int]) -> tuple[Stored | None, list[int]]:
        return found(self.store, prompt), prompt

    @rule(found=consumes(matches))
    def take(self, found: tuple[Stored | None, list[int]]) -> None:
        match, prompt = found
        if match is None:
            return
        state = self.store.take(match)
        candidates = [
            states
            for ids, states in self.state_of.items()
            if len(ids) == match.held and list(ids[: match.tokens]) == prompt[: match.tokens]
        ]
        assert state is None or any(state in states for states in candidates)

    @invariant()
    def memory_keeps_to_its_budget(self) -> None:
        assert 0 <= self.store.ram_bytes <= 100


TestBudget = Budget.TestCase
TestBudget.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
