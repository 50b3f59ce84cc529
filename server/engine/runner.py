"""Fills batches, decodes them, picks tokens: the work of the engine's one thread."""

import itertools
import logging
from collections import deque
from collections.abc import Iterable

from server.domain.errors import EngineFailed, RequestCancelled, ServiceError
from server.domain.generation import FinishReason
from server.engine.lane import Job, Lane
from server.engine.library import Batch, Context, DecodeResult, Model
from server.engine.prefix import Match, PrefixCache
from server.engine.sampling import Sampler, penalised_tokens
from server.engine.scheduler import Candidate, Share, admit, share_batch

logger = logging.getLogger(__name__)


class Runner:
    """All generations of one context: waiting, running, and finished ones kept for their prefix."""

    def __init__(self, model: Model, context: Context, slots: int) -> None:
        self._model = model
        self._context = context
        self._slots = slots
        self._cache = self._empty_cache()
        self._batch = Batch(context.shape.batch_tokens)
        self._waiting: deque[Lane] = deque()
        self._running: dict[int, Lane] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._running

    @property
    def running(self) -> int:
        """Number of generations that have a sequence."""
        return len(self._running)

    @property
    def context_tokens(self) -> int:
        """The context window."""
        return self._context.context_tokens

    @property
    def cache(self) -> PrefixCache:
        """The finished conversations."""
        return self._cache

    @property
    def cells_in_use(self) -> int:
        """Tokens that running generations hold or will hold once their prompts are read."""
        return sum(len(lane.tokens) for lane in self._running.values())

    def add(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        self._waiting.append(Lane.of(job, self._context.context_tokens))

    def vacate(self) -> None:
        """Send every running lane back to wait, because the context goes away."""
        for lane in sorted(self._running.values(), key=lambda lane: lane.job.number, reverse=True):
            self._send_back(lane)

    def move_in(self, context: Context) -> None:
        """Go on in a new, empty context."""
        self._context = context
        self._cache = self._empty_cache()
        self._batch = Batch(context.shape.batch_tokens)
        for lane in self._waiting:
            lane.context_tokens = context.context_tokens

    def step(self) -> int:
        """Start who may start, decode one batch, hand out what was picked.

        Returns the number of jobs that ended. Raises EngineFailed when the context is lost.
        """
        self._context.allow()
        ended = self._drop_cancelled()
        ended += self._start_waiting()
        views = [lane.view for lane in self._running.values()]
        batch_tokens = self._context.shape.batch_tokens
        shares = share_batch(views, batch_tokens, beside_streams_tokens=max(batch_tokens // 4, 32))
        return ended + (self._decode(shares) if shares else 0)

    def fail_all(self, error: ServiceError) -> int:
        """End every job with ``error``; returns how many."""
        lanes = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for lane in lanes:
            self._close_sampler(lane)
            lane.fail(error)
        return len(lanes)

    def _empty_cache(self) -> PrefixCache:
        return PrefixCache(self._context.shape.sequences, trimmable=not self._model.recurrent)

    def _drop_cancelled(self) -> int:
        gone = [lane for lane in self._waiting if lane.job.cancelled]
        for lane in gone:
            self._waiting.remove(lane)
            self._close_sampler(lane)
        leaving = [lane for lane in self._running.values() if lane.job.cancelled]
        for lane in leaving:
            self._leave(lane)
        for lane in (*gone, *leaving):
            lane.fail(RequestCancelled())
        return len(gone) + len(leaving)

    def _start_waiting(self) -> int:
        """Admit in order; returns the number of jobs that could not be started for a fault of theirs."""
        free_lanes = self._slots - len(self._running)
        if not self._waiting or free_lanes == 0:
            return 0
        candidates = [
            Candidate(lane.job.number, self._new_cells(lane))
            for lane in itertools.islice(self._waiting, free_lanes)
        ]
        admitted = admit(candidates, free_lanes, self.cells_in_use, self._context.context_tokens)
        return sum(not self._start(self._waiting.popleft()) for _ in admitted)

    def _new_cells(self, lane: Lane) -> int:
        """What the lane needs beyond the cells of running ones, with a little room to answer."""
        living = (other.holding for other in self._running.values())
        shared = PrefixCache(0, self._cache.trimmable).best_match(lane.tokens, living).tokens
        return min(len(lane.tokens) - shared + 64, self._context.context_tokens)

    def _start(self, lane: Lane) -> bool:
        if lane.sampler is None:
            try:
                lane.sampler = self._new_sampler(lane)
            except ServiceError as error:
                lane.fail(error)
                return False
        match = self._cache.best_match(lane.tokens, (other.holding for other in self._running.values()))
        self._cache.touch(match.sequence)
        sequence = self._sequence_for(match)
        if match.sequence is not None and match.sequence != sequence:
            self._context.share(match.sequence, sequence, match.tokens)
        lane.start(sequence, match.tokens)
        self._running[lane.job.number] = lane
        return True

    def _sequence_for(self, match: Match) -> int:
        try:
            return self._cache.take(match)
        except LookupError:
            self._evict(sparing=match.sequence)
            return self._cache.take(match)

    def _new_sampler(self, lane: Lane) -> Sampler:
        generation = lane.job.generation
        sampler = Sampler(self._model, self._context, generation)
        last_n = penalised_tokens(generation.sampling, self._context.context_tokens)
        if last_n:
            sampler.remember(generation.prompt[-last_n:])
        return sampler

    def _decode(self, shares: Iterable[Share]) -> int:
        self._batch.clear()
        rows: dict[int, int] = {}
        read: list[tuple[Lane, int]] = []
        for share in shares:
            lane = self._running[share.job]
            end = lane.held + share.tokens
            complete = end == len(lane.tokens)
            row = self._batch.add(lane.tokens[lane.held : end], lane.held, lane.sequence, output=complete)
            read.append((lane, share.tokens))
            if complete:
                rows[share.job] = row
        result = self._context.decode(self._batch)
        if result is DecodeResult.DONE:
            for lane, tokens in read:
                lane.held += tokens
            return sum(self._advance(self._running[job], row) for job, row in rows.items())
        if result is DecodeResult.NO_ROOM:
            self._make_room()
        else:
            self._undo(lane for lane, _ in read)
        return 0

    def _advance(self, lane: Lane, row: int) -> bool:
        """Pick the lane's next token; True when that was its end."""
        if lane.limit_reached():
            return self._finish(lane, FinishReason.LENGTH)
        token = lane.sampler.pick(self._context, row) if lane.sampler else None
        if token is None or self._model.ends_generation(token):
            return self._finish(lane, FinishReason.STOP)
        lane.take(token)
        if lane.say(self._model.piece(token)):
            return self._finish(lane, FinishReason.STOP)
        if lane.limit_reached():
            return self._finish(lane, FinishReason.LENGTH)
        return False

    def _finish(self, lane: Lane, reason: FinishReason) -> bool:
        self._leave(lane)
        lane.finish(reason)
        return True

    def _leave(self, lane: Lane) -> None:
        """Take a lane out; what it has read stays in the cache for the next turn."""
        del self._running[lane.job.number]
        self._close_sampler(lane)
        if lane.held == 0:
            self._context.cut(lane.sequence, 0)
            self._cache.give_back(lane.sequence)
            return
        for superfluous in self._cache.keep(lane.sequence, lane.tokens[: lane.held]):
            self._context.cut(superfluous, 0)

    def _close_sampler(self, lane: Lane) -> None:
        if lane.sampler is not None:
            lane.sampler.close()
            lane.sampler = None

    def _evict(self, sparing: int | None = None) -> bool:
        """Free the cells of the finished conversation used longest ago."""
        evicted = self._cache.evict(sparing)
        if evicted is None:
            return False
        self._context.cut(evicted, 0)
        return True

    def _make_room(self) -> None:
        """No free cells: give up finished conversations, then send the youngest lane back to wait."""
        if self._evict():
            return
        if len(self._running) == 1:
            raise EngineFailed("the KV cache has no room for a single prompt that should fit")
        youngest = max(self._running.values(), key=lambda lane: lane.job.number)
        logger.info("KV cache full: request %d waits and is read again later", youngest.job.number)
        self._send_back(youngest)

    def _send_back(self, lane: Lane) -> None:
        del self._running[lane.job.number]
        self._context.cut(lane.sequence, 0)
        self._cache.give_back(lane.sequence)
        lane.held = 0
        self._waiting.appendleft(lane)

    def _undo(self, lanes: Iterable[Lane]) -> None:
        """Remove what an aborted decode left behind, so that the same tokens can be read again."""
        for lane in lanes:
            if not self._context.cut(lane.sequence, lane.held):
                self._context.cut(lane.sequence, 0)
                lane.held = 0
