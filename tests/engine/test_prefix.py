import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.prefix import Held, Match, PrefixCache, common_prefix, distinct_tokens, tokens_of

FEW = st.lists(st.integers(0, 2), max_size=7)
SOME = st.lists(st.integers(0, 2), min_size=1, max_size=7)


def evicted(cache: PrefixCache, sparing: int | None = None) -> int | None:
    oldest = cache.oldest(sparing)
    if oldest is None:
        return None
    cache.give_up(oldest)
    return oldest.sequence


def shared(left: list[int], right: list[int]) -> int:
    length = 0
    while length < min(len(left), len(right)) and left[length] == right[length]:
        length += 1
    return length


@given(FEW, FEW)
def test_common_prefix(left: list[int], right: list[int]) -> None:
    assert common_prefix(tokens_of(left), tokens_of(right)) == shared(left, right)


@pytest.mark.parametrize("length", [1, 1000, 100_000])
def test_common_prefix_of_long_prompts(length: int) -> None:
    left = tokens_of(range(length))
    assert common_prefix(left, left[:]) == length
    assert common_prefix(left, left + tokens_of([7])) == length
    changed = left[:]
    changed[length // 2] = -1
    assert common_prefix(left, changed) == length // 2


def test_comparing_leaves_the_tokens_free_to_grow() -> None:
    tokens = tokens_of([1, 2, 3])
    common_prefix(tokens, tokens_of([1, 2]))
    tokens.append(4)


@given(st.lists(FEW, max_size=6))
def test_distinct_tokens_are_the_nodes_of_a_tree(sequences: list[list[int]]) -> None:
    nodes = {tuple(tokens[:length]) for tokens in sequences for length in range(1, len(tokens) + 1)}
    assert distinct_tokens(map(tokens_of, sequences)) == len(nodes)


def test_a_pinned_beginning_goes_last_and_is_not_used_up() -> None:
    cache = PrefixCache(4, pins=1)
    first, second = cache.take(Match()), cache.take(Match())
    cache.keep(first, tokens_of([1, 2]), pinned=True)
    cache.keep(second, tokens_of([1, 2, 3]))
    assert cache.kept_sequences == 2, "a longer conversation does not make it superfluous"
    match = cache.best_match(tokens_of([1, 2, 7]), ())
    assert cache.take(Match(first, 2, whole=True)) != first
    assert match.tokens == 2
    assert evicted(cache) == second
    assert evicted(cache) == first


def test_of_too_many_pinned_ones_the_oldest_is_like_any_other() -> None:
    cache = PrefixCache(4, pins=2)
    numbers = [cache.take(Match()) for _ in range(4)]
    for number in numbers[:3]:
        cache.keep(number, tokens_of([number + 10]), pinned=True)
    cache.keep(numbers[3], tokens_of([50]))
    assert [evicted(cache) for _ in range(4)] == [numbers[0], numbers[3], numbers[1], numbers[2]]


def test_a_state_that_cannot_be_cut_is_not_covered_by_a_longer_one() -> None:
    cache = PrefixCache(4, trimmable=False)
    first, second = cache.take(Match()), cache.take(Match())
    cache.keep(first, tokens_of([1, 2]))
    assert cache.keep(second, tokens_of([1, 2, 3])) == ()
    assert cache.best_match(tokens_of([1, 2, 9]), ()) == Match(first, 2, whole=True)


def test_refreshing_counts_as_a_use() -> None:
    cache = PrefixCache(3)
    first, second = cache.take(Match()), cache.take(Match())
    cache.keep(first, tokens_of([1]))
    cache.keep(second, tokens_of([2]))
    assert cache.refresh(tokens_of([1]))
    assert not cache.refresh(tokens_of([3]))
    assert evicted(cache) == second


def test_an_empty_cache_matches_nothing() -> None:
    assert PrefixCache(2).best_match(tokens_of([1, 2]), ()) == Match()


@pytest.mark.parametrize("prompt", [[], [1]])
def test_a_prompt_without_a_beginning_matches_nothing(prompt: list[int]) -> None:
    cache = PrefixCache(2)
    cache.keep(cache.take(Match()), tokens_of([1, 2]))
    assert cache.best_match(tokens_of(prompt), ()) == Match()


def test_the_next_turn_takes_its_own_sequence_over() -> None:
    cache = PrefixCache(2)
    first = cache.take(Match())
    cache.keep(first, tokens_of([1, 2, 3]))
    match = cache.best_match(tokens_of([1, 2, 3, 4]), ())
    assert match == Match(first, 3, whole=True)
    assert cache.take(match) == first
    assert cache.kept_sequences == 0


def test_the_same_prompt_again_leaves_its_last_token_to_read() -> None:
    cache = PrefixCache(2)
    first = cache.take(Match())
    cache.keep(first, tokens_of([1, 2, 3]))
    match = cache.best_match(tokens_of([1, 2, 3]), ())
    assert match == Match(first, 2, whole=False)
    assert cache.take(match) != first
    assert cache.kept_sequences == 1


def test_no_number_is_left() -> None:
    cache = PrefixCache(1)
    cache.keep(cache.take(Match()), tokens_of([1]))
    with pytest.raises(LookupError):
        cache.take(Match())
    evicted(cache)
    assert cache.take(Match()) == 0


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = PrefixCache(3)
    numbers = [cache.take(Match()) for _ in range(3)]
    for number in numbers:
        cache.keep(number, tokens_of([number + 10]))
    cache.touch(numbers[0])
    cache.touch(None)
    cache.touch(99)
    assert evicted(cache, sparing=numbers[1]) == numbers[2]
    assert evicted(cache) == numbers[1]
    assert evicted(cache, sparing=numbers[0]) is None
    assert evicted(cache) == numbers[0]
    assert evicted(cache) is None


class PrefixCacheMachine(RuleBasedStateMachine):
    """Against dictionaries: which sequences live, which are kept, and the order of their use."""

    trimmable = True
    sequences = 4

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(self.sequences, self.trimmable)
        self.living: dict[int, list[int]] = {}
        self.kept: dict[int, list[int]] = {}
        self.uses: list[int] = []

    def held(self) -> list[Held]:
        return [Held(sequence, tokens_of(tokens), 0) for sequence, tokens in self.living.items()]

    @rule(prompt=SOME)
    def start(self, prompt: list[int]) -> None:
        match = self.cache.best_match(tokens_of(prompt), self.held())
        self.check_match(match, prompt)
        self.cache.touch(match.sequence)
        if match.sequence in self.kept:
            self.use(match.sequence)
        takes_over = match.whole and match.sequence in self.kept
        if not takes_over and len(self.living) + len(self.kept) == self.sequences:
            with pytest.raises(LookupError):
                self.cache.take(match)
            self.evict(sparing=match.sequence)
            if len(self.living) + len(self.kept) == self.sequences:
                return
        sequence = self.cache.take(match)
        assert (sequence == match.sequence) == takes_over
        if takes_over:
            del self.kept[sequence]
            self.uses.remove(sequence)
        assert sequence not in self.living
        assert sequence not in self.kept
        assert 0 <= sequence < self.sequences
        self.living[sequence] = prompt

    def check_match(self, match: Match, prompt: list[int]) -> None:
        everything = {**self.kept, **self.living}
        lengths = {
            sequence: min(shared(prompt, tokens), len(prompt) - 1) for sequence, tokens in everything.items()
        }
        if not self.trimmable:
            lengths = {key: length for key, length in lengths.items() if length == len(everything[key])}
        assert match.tokens == max(lengths.values(), default=0)
        if match.sequence is None:
            assert match == Match()
            return
        assert lengths[match.sequence] == match.tokens
        assert match.whole == (match.tokens == len(everything[match.sequence]))

    @precondition(lambda self: self.living)
    @rule(data=st.data(), said=FEW)
    def finish(self, data: st.DataObject, said: list[int]) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.living)))
        tokens = self.living.pop(sequence) + said
        superfluous = self.cache.keep(sequence, tokens_of(tokens))
        assert set(superfluous) == {
            other
            for other, old in self.kept.items()
            if tokens[: len(old)] == old and (self.cache.trimmable or tokens == old) and other != sequence
        }
        for other in superfluous:
            del self.kept[other]
            self.uses.remove(other)
        self.kept[sequence] = tokens
        self.use(sequence)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.living)))
        del self.living[sequence]
        self.cache.give_back(sequence)

    @rule(sparing=st.one_of(st.none(), st.integers(0, 3)))
    def evict(self, sparing: int | None) -> None:
        oldest = next((sequence for sequence in self.uses if sequence != sparing), None)
        assert evicted(self.cache, sparing) == oldest
        if oldest is not None:
            del self.kept[oldest]
            self.uses.remove(oldest)

    def use(self, sequence: int) -> None:
        self.uses = [other for other in self.uses if other != sequence] + [sequence]

    @invariant()
    def every_number_is_in_one_place(self) -> None:
        free = self.cache._free
        assert sorted([*free, *self.living, *self.kept]) == list(range(self.sequences))

    @invariant()
    def the_figures_are_right(self) -> None:
        assert self.cache.kept_sequences == len(self.kept)
        assert self.cache.kept_tokens == sum(map(len, self.kept.values()))


class WholeOnlyMachine(PrefixCacheMachine):
    """A model whose state cannot be cut back."""

    trimmable = False


TestPrefixCache = PrefixCacheMachine.TestCase
TestPrefixCache.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestWholeOnly = WholeOnlyMachine.TestCase
TestWholeOnly.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


def test_the_last_token_is_matched_only_where_its_logits_are_known() -> None:
    cache = PrefixCache(2)
    cache.keep(cache.take(Match()), tokens_of([1, 2, 3, 4]))
    assert cache.best_match(tokens_of([1, 2, 3]), []).tokens == 2
    assert cache.best_match(tokens_of([1, 2, 3]), [], to_the_end=True).tokens == 3


def test_cells_beside_are_those_that_nobody_else_needs() -> None:
    cache = PrefixCache(4)
    assert cache.cells_beside([tokens_of([1, 2])]) == 0
    cache.keep(cache.take(Match()), tokens_of([1, 2, 3, 4]))
    cache.keep(cache.take(Match()), tokens_of([9, 9, 9]), pinned=True)
    assert cache.cells_beside([tokens_of([1, 2, 5, 6])]) == 5
    assert cache.cells_beside([]) == 7
    assert cache.cells_beside([tokens_of([1, 2, 3, 4, 5])]) == 3


def test_what_makes_way_is_the_oldest_that_takes_cells_and_pinned_ones_go_last() -> None:
    cache = PrefixCache(4)
    cache.keep(pinned := cache.take(Match()), tokens_of([9, 9, 9]), pinned=True)
    cache.keep(older := cache.take(Match()), tokens_of([1, 2, 3]))
    cache.keep(newer := cache.take(Match()), tokens_of([1, 4]))
    order = []
    while held := cache.oldest_beside([tokens_of([9, 9, 8])]):
        order.append(held.sequence)
        cache.give_up(held)
    assert order == [older, newer, pinned]
    cache.keep(cache.take(Match()), tokens_of([1, 2]))
    assert cache.oldest_beside([tokens_of([1, 2, 3])]) is None, "it takes no cells of its own"
