from itertools import accumulate

from hypothesis import example, given
from hypothesis import strategies as st

from server.engine.scheduler import Candidate, LaneView, Share, admit, share_batch

PENDING = st.integers(1, 700)


def reader(job: int, pending: int) -> LaneView:
    return LaneView(job, pending, generating=False)


def stream(job: int) -> LaneView:
    return LaneView(job, 1, generating=True)


@st.composite
def lanes(draw: st.DrawFn) -> list[LaneView]:
    drawn = draw(st.lists(st.one_of(st.none(), PENDING), max_size=12))
    return [stream(job) if pending is None else reader(job, pending) for job, pending in enumerate(drawn)]


def tokens(shares: tuple[Share, ...]) -> dict[int, int]:
    return {share.job: share.tokens for share in shares}


def test_nobody_there() -> None:
    assert share_batch([], 512, 128) == ()


def test_a_lone_reader_gets_the_whole_batch() -> None:
    assert tokens(share_batch([reader(1, 900)], 512, 128)) == {1: 512}


def test_beside_a_stream_readers_get_only_their_part() -> None:
    assert tokens(share_batch([reader(1, 900), stream(2), reader(3, 900)], 512, 128)) == {2: 1, 1: 64, 3: 64}


def test_what_a_short_prompt_leaves_goes_to_the_long_ones() -> None:
    assert tokens(share_batch([reader(1, 900), reader(2, 10), reader(3, 900)], 110, 0)) == {
        2: 10,
        1: 50,
        3: 50,
    }


def test_a_prompts_last_token_is_no_stream() -> None:
    assert tokens(share_batch([reader(1, 1), reader(2, 900)], 100, 10)) == {1: 1, 2: 99}


@given(lanes(), st.integers(1, 600), st.integers(0, 600))
@example([stream(1), stream(2), reader(3, 5)], 2, 100)
def test_a_batch_is_never_overfull_and_nobody_gets_more_than_they_have(
    views: list[LaneView], batch: int, beside: int
) -> None:
    shares = share_batch(views, batch, beside)
    given_tokens = tokens(shares)
    pending = {lane.job: lane.pending_tokens for lane in views}
    assert len(given_tokens) == len(shares)
    assert sum(given_tokens.values()) <= batch
    assert all(0 < part <= pending[job] for job, part in given_tokens.items())


@given(lanes(), st.integers(12, 600), st.integers(0, 600))
def test_every_stream_gets_its_token(views: list[LaneView], batch: int, beside: int) -> None:
    given_tokens = tokens(share_batch(views, batch, beside))
    assert all(given_tokens[lane.job] == 1 for lane in views if lane.generating)


@given(lanes(), st.integers(12, 600), st.integers(0, 600))
def test_readers_fill_exactly_what_they_may(views: list[LaneView], batch: int, beside: int) -> None:
    given_tokens = tokens(share_batch(views, batch, beside))
    streams = sum(lane.generating for lane in views)
    readers = [lane for lane in views if not lane.generating]
    room = min(batch - streams, beside) if streams else batch
    read = sum(given_tokens.get(lane.job, 0) for lane in readers)
    assert read == min(room, sum(lane.pending_tokens for lane in readers))


@given(lanes(), st.integers(12, 600), st.integers(12, 600))
def test_water_filling(views: list[LaneView], batch: int, beside: int) -> None:
    """A reader that is not satisfied has no less than any other, but for what cannot be divided."""
    given_tokens = tokens(share_batch(views, batch, beside))
    readers = [lane for lane in views if not lane.generating]
    most = max((given_tokens.get(lane.job, 0) for lane in readers), default=0)
    for lane in readers:
        part = given_tokens.get(lane.job, 0)
        assert part == lane.pending_tokens or part >= most - 1


@given(lanes(), st.integers(32, 600), st.integers(32, 600))
def test_nobody_starves(views: list[LaneView], batch: int, beside: int) -> None:
    assert tokens(share_batch(views, batch, beside)).keys() == {lane.job for lane in views}


@given(lanes(), st.integers(12, 64), st.integers(12, 64))
def test_every_prompt_is_read_in_the_end(views: list[LaneView], batch: int, beside: int) -> None:
    left = {lane.job: lane.pending_tokens for lane in views if not lane.generating}
    for _ in range(sum(left.values())):
        if not left:
            break
        readers = [reader(job, pending) for job, pending in left.items()]
        streams = [lane for lane in views if lane.generating]
        for share in share_batch([*streams, *readers], batch, beside):
            if share.job in left:
                left[share.job] -= share.tokens
        left = {job: pending for job, pending in left.items() if pending}
    assert not left


candidates = st.lists(st.integers(1, 300), max_size=10).map(
    lambda cells: [Candidate(job, new) for job, new in enumerate(cells)]
)


def test_jobs_start_while_they_fit() -> None:
    waiting = [Candidate(1, 40), Candidate(2, 40), Candidate(3, 40)]
    assert admit(waiting, free_lanes=8, cells_in_use=0, context_tokens=100) == (1, 2)
    assert admit(waiting, free_lanes=1, cells_in_use=0, context_tokens=100) == (1,)
    assert admit(waiting, free_lanes=0, cells_in_use=0, context_tokens=100) == ()


def test_a_small_job_does_not_overtake() -> None:
    waiting = [Candidate(1, 90), Candidate(2, 1)]
    assert admit(waiting, free_lanes=8, cells_in_use=20, context_tokens=100) == ()


def test_alone_even_the_largest_starts() -> None:
    waiting = [Candidate(1, 1000), Candidate(2, 1)]
    assert admit(waiting, free_lanes=8, cells_in_use=0, context_tokens=100) == (1,)


@given(candidates, st.integers(0, 10), st.integers(0, 500), st.integers(1, 500))
def test_admission(waiting: list[Candidate], free_lanes: int, in_use: int, context: int) -> None:
    admitted = admit(waiting, free_lanes, in_use, context)
    assert admitted == tuple(candidate.job for candidate in waiting[: len(admitted)])
    assert len(admitted) <= free_lanes
    totals = list(accumulate((candidate.new_cells for candidate in waiting), initial=in_use))
    for place in range(len(admitted)):
        assert totals[place + 1] <= context or (place == 0 and in_use == 0)
    if len(admitted) < min(free_lanes, len(waiting)):
        assert totals[len(admitted) + 1] > context
    if waiting and free_lanes and in_use == 0:
        assert admitted
