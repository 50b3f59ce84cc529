"""Who is in the next batch, and who may start: pure functions over frozen views."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LaneView:
    """A running job: how many of its tokens the model has not read yet (1: it is generating)."""

    job: int
    pending_tokens: int
    generating: bool


@dataclass(frozen=True, slots=True)
class Share:
    """How many tokens of a job go into the next batch."""

    job: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting job: the cells that it will take beyond what it shares with running ones."""

    job: int
    new_cells: int


def share_batch(
    lanes: Sequence[LaneView], batch_tokens: int, beside_streams_tokens: int
) -> tuple[Share, ...]:
    """Divide one batch of at most ``batch_tokens`` among ``lanes``.

    Every generating lane gets its one token. The rest goes to the lanes that still read their
    prompt, in equal parts, a lane's surplus going on to the others. While anyone is generating,
    the readers together get at most ``beside_streams_tokens``, so that no stream stalls for long.
    """
    streams = [Share(lane.job, 1) for lane in lanes if lane.generating][:batch_tokens]
    room = batch_tokens - len(streams)
    if streams:
        room = min(room, beside_streams_tokens)
    readers = [lane for lane in lanes if not lane.generating]
    return (*streams, *_equal_parts(readers, room))


def _equal_parts(readers: Sequence[LaneView], room: int) -> list[Share]:
    shares = []
    by_need = sorted(readers, key=lambda lane: lane.pending_tokens)
    for place, lane in enumerate(by_need):
        part = min(lane.pending_tokens, -(-room // (len(by_need) - place)))
        if part > 0:
            shares.append(Share(lane.job, part))
            room -= part
    return shares


def admit(
    waiting: Sequence[Candidate], free_lanes: int, cells_in_use: int, context_tokens: int
) -> tuple[int, ...]:
    """Jobs that may start now, in their order of arrival.

    A job starts when a lane is free and its cells fit beside those of the running jobs; finished
    conversations do not count, their cells are given up when needed. Nobody overtakes: the first
    that does not fit ends the list. With nothing running, the first job always starts.
    """
    admitted: list[int] = []
    for candidate in waiting:
        alone = cells_in_use == 0 and not admitted
        fits = cells_in_use + candidate.new_cells <= context_tokens
        if len(admitted) == free_lanes or not (fits or alone):
            break
        admitted.append(candidate.job)
        cells_in_use += candidate.new_cells
    return tuple(admitted)
