"""Who is in the next batch, and who may start: pure functions over frozen views."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.prefix import Tokens, distinct_tokens

ANSWER_ROOM_TOKENS = 64
"""Cells that a starting job must find free for its answer."""


@dataclass(frozen=True, slots=True)
class LaneView:
    """A running job: how many tokens it wants the model to read next.

    One that is generating wants its last token read, and perhaps a guess of what follows.
    ``background`` work serves nobody who waits.
    """

    job: int
    pending_tokens: int
    generating: bool
    background: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """How many tokens of a job go into the next batch."""

    job: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job."""

    job: int
    tokens: Tokens
    background: bool = False


def share_batch(
    lanes: Sequence[LaneView], batch_tokens: int, beside_streams_tokens: int
) -> tuple[Share, ...]:
    """Divide one batch of at most ``batch_tokens`` among ``lanes``; they stand in order of arrival.

    While anyone is served, background work rests. Every generating lane gets what it wants. The rest
    goes to the lanes that still read their prompt; while anyone is generating, they together get at
    most ``beside_streams_tokens``, so that no stream stalls for long.
    """
    lanes = [lane for lane in lanes if not lane.background] or lanes
    streams: list[Share] = []
    room = batch_tokens
    for lane in lanes:
        if lane.generating and lane.pending_tokens <= room:
            streams.append(Share(lane.job, lane.pending_tokens))
            room -= lane.pending_tokens
    if streams:
        room = min(room, beside_streams_tokens)
    return (*streams, *_divide([lane for lane in lanes if not lane.generating], room))


def _divide(readers: Sequence[LaneView], room: int) -> list[Share]:
    """Half of the room is for whoever came first, so that nobody starves; the rest goes to those who
    need least, so that most are done soon."""
    if not readers or room <= 0:
        return []
    first = readers[0]
    parts = {first.job: min(first.pending_tokens, -(-room // 2))}
    room -= parts[first.job]
    for lane in sorted(readers, key=lambda lane: lane.pending_tokens):
        part = min(lane.pending_tokens - parts.get(lane.job, 0), room)
        parts[lane.job] = parts.get(lane.job, 0) + part
        room -= part
    return [Share(job, part) for job, part in parts.items() if part]


def admit(
    waiting: Sequence[Candidate], running: Sequence[Tokens], free_lanes: int, context_tokens: int
) -> tuple[int, ...]:
    """Jobs that may start now, in this order.

    Chats go before background work, and each kind starts in its order of arrival. A job starts when a
    lane is free and the context has room for it beside the ``running`` ones, with what several of them
    begin with counted once; finished conversations do not count, their cells are given up when needed.
    Nobody overtakes: the first that does not fit ends the list. With nothing running, the first starts.
    """
    admitted: list[Candidate] = []
    for candidate in sorted(waiting, key=lambda candidate: candidate.background):
        together = [*running, *(other.tokens for other in admitted), candidate.tokens]
        fits = distinct_tokens(together) + ANSWER_ROOM_TOKENS * len(together) <= context_tokens
        if len(admitted) == free_lanes or not (fits or len(together) == 1):
            break
        admitted.append(candidate)
    return tuple(candidate.job for candidate in admitted)
