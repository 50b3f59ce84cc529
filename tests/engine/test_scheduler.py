from hypothesis import example, given
from hypothesis import strategies as st

from server.engine.prefix import distinct_tokens, tokens_of
from server.engine.scheduler import ANSWER_ROOM_TOKENS, Candidate, LaneView, Share, admit, share_batch

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
    assert tokens(share_batch([reader(1, 900), stream(2), reader(3, 800)], 512, 128)) == {2: 1, 1: 64, 3: 64}


def test_half_is_for_the_first_and_the_rest_for_the_shortest() -> None:
    views = [reader(1, 900), reader(2, 300), reader(3, 20), reader(4, 500)]
    assert tokens(share_batch(views, 200, 0)) == {1: 100, 3: 20, 2: 80}


def test_of_equals_the_first_is_done_first() -> None:
    assert tokens(share_batch([reader(1, 300), reader(2, 300)], 200, 0)) == {1: 200}


def test_a_guess_is_read_with_its_token() -> None:
    views = [LaneView(1, 5, generating=True), reader(2, 900), LaneView(3, 1, generating=True)]
    assert tokens(share_batch(views, 512, 100)) == {1: 5, 3: 1, 2: 100}


def test_background_work_rests_while_anyone_is_served() -> None:
    background = [LaneView(1, 900, generating=False, background=True), LaneView(2, 1, True, background=True)]
    assert tokens(share_batch(background, 512, 100)) == {2: 1, 1: 100}
    assert tokens(share_batch([*background, reader(3, 30)], 512, 100)) == {3: 30}


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
def test_the_first_reader_never_starves(views: list[LaneView], batch: int, beside: int) -> None:
    given_tokens = tokens(share_batch(views, batch, beside))
    readers = [lane for lane in views if not lane.generating]
    room = min(batch - (len(views) - len(readers)), beside) if len(readers) < len(views) else batch
    if readers and room > 0:
        assert given_tokens[readers[0].job] >= min(readers[0].pending_tokens, room / 2)


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


def candidate(job: int, *parts: range, background: bool = False) -> Candidate:
    return Candidate(job, tokens_of(token for part in parts for token in part), background)


A, B, C = range(100), range(1000, 1100), range(2000, 2100)


def test_jobs_start_while_they_fit() -> None:
    waiting = [candidate(1, A), candidate(2, B), candidate(3, C)]
    room = 2 * (100 + ANSWER_ROOM_TOKENS)
    assert admit(waiting, [], free_lanes=8, context_tokens=room) == (1, 2)
    assert admit(waiting, [], free_lanes=8, context_tokens=room - 1) == (1,)
    assert admit(waiting, [], free_lanes=1, context_tokens=room) == (1,)
    assert admit(waiting, [], free_lanes=0, context_tokens=room) == ()


def test_what_jobs_begin_with_together_counts_once() -> None:
    waiting = [candidate(1, A, B), candidate(2, A, C)]
    running = [tokens_of(A)]
    room = 300 + 3 * ANSWER_ROOM_TOKENS
    assert admit(waiting, running, free_lanes=8, context_tokens=room) == (1, 2)
    assert admit(waiting, running, free_lanes=8, context_tokens=room - 1) == (1,)


def test_a_small_job_does_not_overtake() -> None:
    waiting = [candidate(1, A, B), candidate(2, range(5))]
    assert admit(waiting, [tokens_of(C)], free_lanes=8, context_tokens=300) == ()


def test_chats_go_before_background_work() -> None:
    waiting = [candidate(1, A, background=True), candidate(2, B), candidate(3, C)]
    assert admit(waiting, [], free_lanes=2, context_tokens=9999) == (2, 3)
    assert admit(waiting, [], free_lanes=3, context_tokens=9999) == (2, 3, 1)


def test_alone_even_the_largest_starts() -> None:
    waiting = [candidate(1, A, B, C), candidate(2, range(5))]
    assert admit(waiting, [], free_lanes=8, context_tokens=100) == (1,)


prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tokens_of), max_size=6)


@given(prompts, prompts, st.integers(0, 8), st.integers(1, 600))
def test_admission(waiting: list, running: list, free_lanes: int, context: int) -> None:
    views = [Candidate(job, prompt) for job, prompt in enumerate(waiting)]
    admitted = admit(views, running, free_lanes, context)

    def needed(count: int) -> int:
        together = [*running, *waiting[:count]]
        return distinct_tokens(together) + ANSWER_ROOM_TOKENS * len(together)

    assert admitted == tuple(range(len(admitted)))
    assert len(admitted) <= free_lanes
    assert not admitted or needed(len(admitted)) <= context or (not running and len(admitted) == 1)
    if len(admitted) < min(free_lanes, len(waiting)):
        assert needed(len(admitted) + 1) > context
