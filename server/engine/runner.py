"""Fills batches, decodes them, picks tokens: the work of the engine's one thread."""

import logging
import time
from collections.abc import Mapping, Sequence

from server.domain.errors import EngineFailed, RequestCancelled, ServiceError
from server.domain.generation import FinishReason
from server.engine.cells import Cells
from server.engine.cores import CoreWatch
from server.engine.drafts import Savings, best_length, guess
from server.engine.figures import Figures
from server.engine.lane import Job, Lane
from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import Context, DecodeResult
from server.engine.llamacpp.model import Model
from server.engine.openings import Openings
from server.engine.pace import ReadingPace, Speed, StepCost
from server.engine.prefix import distinct_tokens
from server.engine.sampling import DecodedRow, KeptRow, Row, Sampler, penalised_tokens
from server.engine.scheduler import Share, admit, share_batch
from server.engine.store import StateStore

logger = logging.getLogger(__name__)

LEAST_PIECE_TOKENS = 32
"""Smaller pieces of a prompt cost more than they save."""

TILE_TOKENS = 64
"""ggml's flash attention for the CPU takes fewer one by one: deep in a prompt, half as many take as long."""

SPEAKING_PAUSE_NS = 25_000_000
"""An answer's text is handed out no more often: each time costs the model 1 ms where cores are few."""

STEPS_TO_LIGHTEN = 16
"""So often it is looked whether kept conversations slow the running ones down."""

COPIED_TOKENS = 32
"""So many can be copied for each that is read, and nobody notices."""

WORTH_KEEPING_TOKENS = 256
"""A shorter beginning is not kept apart from the conversation."""


class Runner:
    """All generations of one context: waiting, running, and finished ones kept for their prefix.

    ``stall_s`` is how long a prompt that is being read may hold up other answers, and ``draft_tokens``
    how many tokens may be guessed at once, over all answers.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        store: StateStore,
        *,
        slots: int,
        stall_s: float,
        draft_tokens: int,
    ) -> None:
        self.figures = Figures()
        self._model = model
        self._store = store
        self._slots = slots
        self._stall_s = stall_s
        self._trimmable = not model.recurrent
        self._draft_tokens = draft_tokens if self._trimmable else 0
        self._core_watch = CoreWatch(context.shape.threads)
        self._cost = StepCost()
        self._pace = ReadingPace()
        self._savings = Savings()
        self._openings = Openings()
        self._waiting: list[Lane] = []
        self._running: dict[int, Lane] = {}
        self._must_wait_for_end = False
        self._reading: frozenset[int] = frozenset()
        self.move_in(context)

    @property
    def idle(self) -> bool:
        """Whether there is nothing that anybody waits for."""
        return not self._waiting and not self._running

    @property
    def running(self) -> int:
        """Number of generations that have started."""
        return len(self._running)

    @property
    def context_tokens(self) -> int:
        """The context window."""
        return self._context.context_tokens

    @property
    def cells_in_use(self) -> int:
        """Cells that the running generations hold or will hold once their prompts are read."""
        return distinct_tokens(lane.tokens for lane in self._running.values())

    @property
    def speed(self) -> Speed:
        """How fast it was lately."""
        return Speed(self._pace.per_token, self._cost.of(1) or None)

    def rest(self) -> None:
        """The engine has nothing to do and waits."""
        self._core_watch.rest()

    def is_reading(self, job: Job) -> bool:
        """Whether the batch under way reads this job's prompt. Callable from any thread."""
        return job.number in self._reading

    def add(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        self.figures.requests += 1
        self.figures.prompt_tokens += len(job.generation.prompt)
        self._waiting.append(Lane.of(job, self._context.context_tokens))

    def vacate(self) -> None:
        """Send every running lane back to wait, because the context goes away."""
        for lane in sorted(self._running.values(), key=lambda lane: lane.job.number, reverse=True):
            self._send_back(lane)
        self.cells.evict_all()

    def move_in(self, context: Context) -> None:
        """Go on in a new, empty context."""
        self._context = context
        self.cells = Cells(context, self._store, self.figures, trimmable=self._trimmable)
        self._batch = Batch(context.shape.batch_tokens)
        for lane in self._waiting:
            lane.context_tokens = context.context_tokens

    def step(self) -> int:
        """Start who may start, decode one batch, hand out what was picked.

        Returns the number of jobs that ended. Raises EngineFailed when the context is lost.
        """
        self._context.allow()
        self._adjust_threads()
        ended = self._drop_cancelled() + self._start_waiting()
        self._place_started()
        ended += self._answer_known_prompts()
        self._guess()
        shares = self._share_out()
        if shares:
            return ended + self._decode(shares)
        self._speak(pause_ns=0)
        if not self._running and self.cells.untidy:
            self.cells.tidy()
        return ended

    def fail_all(self, error: ServiceError) -> int:
        """End every job with ``error``; returns how many."""
        lanes = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for lane in lanes:
            self._close_sampler(lane)
            lane.fail(error)
        return len(lanes)

    def _adjust_threads(self) -> None:
        """Leave the cores to other programs that they have taken anyway."""
        threads = self._core_watch.threads()
        if threads is not None:
            self._context.use_threads(threads)

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
        """Admit who may start; returns the number of jobs that could not for a fault of theirs."""
        failed = 0
        if self._waiting and not (self._must_wait_for_end and self._running):
            self._displace_background()
            candidates = [lane.candidate for lane in self._waiting]
            running = [lane.tokens for lane in self._running.values()]
            free_lanes = self._slots - len(self._running)
            admitted = admit(candidates, running, free_lanes, self._context.context_tokens)
            starting = {lane.job.number: lane for lane in self._waiting if lane.job.number in admitted}
            self._waiting = [lane for lane in self._waiting if lane.job.number not in starting]
            failed = sum(not self._start(starting[number]) for number in admitted)
        for place, lane in enumerate(self._waiting, 1):
            lane.job.position = place
        return failed

    def _displace_background(self) -> None:
        """Where all lanes are taken, background work makes way for chats."""
        chats = sum(not lane.background for lane in self._waiting)
        in_the_way = [lane for lane in self._running.values() if lane.background]
        needed = min(chats - (self._slots - len(self._running)), len(in_the_way))
        for lane in in_the_way[len(in_the_way) - max(needed, 0) :]:
            del self._running[lane.job.number]
            lane.speak()
            self.cells.leave(lane)
            self._waiting.append(lane)

    def _start(self, lane: Lane) -> bool:
        lane.job.position = 0
        if lane.sampler is None:
            try:
                lane.sampler = self._new_sampler(lane)
            except ServiceError as error:
                lane.fail(error)
                return False
        lane.borders, lane.stops_at_borders = self._borders(lane), not self._trimmable
        self._running[lane.job.number] = lane
        return True

    def _borders(self, lane: Lane) -> tuple[int, ...]:
        """Where the beginning ends that other conversations share, and, if states cannot be cut, the
        last message: what follows may be told otherwise in the next turn."""
        borders = {lane.job.generation.lasting_tokens}
        if not self._trimmable:
            borders.add(self._model.last_message_end(lane.job.generation.prompt))
        return tuple(sorted(border for border in borders if border >= WORTH_KEEPING_TOKENS))

    def _place_started(self) -> None:
        for lane in [lane for lane in self._running.values() if not lane.placed]:
            self._place(lane, first_time=not lane.started_ns)

    def _place(self, lane: Lane, *, first_time: bool) -> None:
        """Give a lane its place in the KV cache, unless it has to wait for one that reads its beginning."""
        lane.opening = self._openings.recall(lane.tokens) if self._trimmable else None
        if not self.cells.place(lane):
            return
        to_read = len(lane.tokens) - lane.held
        self.cells.lighten(most_tokens=COPIED_TOKENS * to_read)
        if first_time:
            self.figures.cached_tokens += lane.reused
            self.figures.queue_s.see((lane.started_ns - lane.job.submitted_ns) / 1e9)

    def _answer_known_prompts(self) -> int:
        """Pick the first tokens where prompts were read before, to the last token."""
        known = [(lane, lane.opening) for lane in self._running.values() if lane.placed]
        ended = 0
        for lane, opening in known:
            lane.opening = None
            if opening is not None and lane.held == len(lane.tokens):
                ended += self._advance(lane, KeptRow(opening))
        return ended

    def _new_sampler(self, lane: Lane) -> Sampler:
        generation = lane.job.generation
        sampler = Sampler(self._model, self._context, generation)
        last_n = penalised_tokens(generation.sampling, self._context.context_tokens)
        if last_n:
            sampler.remember(generation.prompt[-last_n:])
        return sampler

    def _guess(self) -> None:
        """Let each generating lane guess what comes next, where that is likely to pay."""
        streams = [lane for lane in self._running.values() if lane.placed and lane.generating]
        if not streams or not self._draft_tokens:
            return
        fair_part = self._draft_tokens // len(streams)
        alone_s, guessed = self._cost.of(len(streams)), 0
        for lane in streams:
            self._savings.earn(alone_s / len(streams))
            spent_s = self._cost.of(len(streams) + guessed) - alone_s
            lane.guess = self._worthwhile_guess(lane, min(fair_part, lane.room() - 1), len(streams), spent_s)
            guessed += len(lane.guess)

    def _worthwhile_guess(self, lane: Lane, most: int, streams: int, spent_s: float) -> list[int]:
        found = guess(lane.tokens, most)
        if not found.tokens:
            return []
        chance = lane.record.chance(found.matched)
        spendable_s = self._savings.spendable_s(found.matched) - spent_s
        length = best_length(len(found.tokens), chance, streams, self._cost, spendable_s)
        lane.expected = None if length else found.tokens[0]
        return found.tokens[:length]

    def _share_out(self) -> tuple[Share, ...]:
        batch_tokens = self._context.shape.batch_tokens
        beside_streams = self._pace.tokens_in(self._stall_s, least=LEAST_PIECE_TOKENS, most=batch_tokens)
        if beside_streams <= LEAST_PIECE_TOKENS:
            beside_streams = TILE_TOKENS
        placed = sorted((lane for lane in self._running.values() if lane.placed), key=_arrival)
        return share_batch([lane.view for lane in placed], batch_tokens, beside_streams)

    def _decode(self, shares: Sequence[Share]) -> int:
        started = time.perf_counter()
        lanes = [self._running[share.job] for share in shares]
        rows_of_streams = [share.tokens for share, lane in zip(shares, lanes, strict=True) if lane.generating]
        self._reading = frozenset(lane.job.number for lane in lanes if not lane.generating)
        rows = self._fill(shares)
        self._speak(pause_ns=0 if self._reading else SPEAKING_PAUSE_NS)
        result = self._context.decode(self._batch)
        self._reading = frozenset()
        if result is DecodeResult.NO_ROOM:
            self._make_room()
            return 0
        if result is DecodeResult.ABORTED:
            for lane in lanes:
                self.cells.cut_back(lane)
            return 0
        self.figures.steps += 1
        guesses = {lane: len(lane.guess) for lane in lanes if lane.guess}
        ended = sum(self._take_in(self._running[share.job], share, rows[share.job]) for share in shares)
        self._learn(sum(rows_of_streams), guesses, time.perf_counter() - started)
        # Only now: copying is no part of what a step takes.
        if self.figures.steps % STEPS_TO_LIGHTEN == 0:
            self.cells.lighten_once()
        return ended

    def _speak(self, pause_ns: int) -> None:
        """Hand out the text of the steps before: whoever hears it has the interpreter for himself while
        the model computes."""
        for lane in self._running.values():
            lane.speak(pause_ns=pause_ns)

    def _fill(self, shares: Sequence[Share]) -> dict[int, int]:
        """Put the shares into the batch; returns each job's last row."""
        self._batch.clear()
        rows = {}
        for share in shares:
            lane = self._running[share.job]
            complete = lane.held + share.tokens >= len(lane.tokens)
            outputs = share.tokens if lane.generating else int(complete)
            tokens = lane.next_tokens(share.tokens)
            rows[share.job] = self._batch.add(tokens, lane.held, lane.sequence, outputs=outputs)
        return rows

    def _take_in(self, lane: Lane, share: Share, last_row: int) -> bool:
        """Go on with a lane whose share was read; True when that was its end."""
        if lane.generating:
            return self._verify(lane, last_row - len(lane.guess))
        before = lane.held
        lane.held += share.tokens
        lane.read_tokens += share.tokens
        self.figures.read_tokens += share.tokens
        self.cells.passed_borders(lane, before)
        if lane.held < len(lane.tokens):
            return False
        row = DecodedRow(self._context, last_row)
        if self._trimmable and not lane.generated_tokens:
            self._openings.remember(lane.tokens, row.logits())
        return self._advance(lane, row)

    def _verify(self, lane: Lane, first_row: int) -> bool:
        """Take tokens as long as the model picks what was guessed, and the one that it picks instead."""
        guessed, lane.guess = lane.guess, []
        lane.guessed_tokens += len(guessed)
        accepted, ended = 0, False
        for row, expected in enumerate([*guessed, None], first_row):
            lane.held += 1
            ended = self._advance(lane, DecodedRow(self._context, row))
            if ended or lane.tokens[-1] != expected:
                break
            accepted += 1
            lane.accepted_tokens += 1
        if accepted < len(guessed) and not ended:
            self.cells.cut_back(lane)
        lane.accepted = accepted
        self.figures.guessed_tokens += len(guessed)
        self.figures.accepted_tokens += accepted
        return ended

    def _advance(self, lane: Lane, row: Row) -> bool:
        """Pick the lane's next token; True when that was its end."""
        if lane.room() <= 0:
            return self._finish(lane, FinishReason.LENGTH)
        token = lane.sampler.pick(row) if lane.sampler else None
        if token is None or self._model.ends_generation(token):
            return self._finish(lane, FinishReason.STOP)
        self._note(lane, token, row)
        if lane.say(self._model.piece(token)):
            return self._finish(lane, FinishReason.STOP)
        if lane.room() <= 0:
            return self._finish(lane, FinishReason.LENGTH)
        return False

    def _note(self, lane: Lane, token: int, row: Row) -> None:
        """Append a picked token and count it."""
        score = lane.sampler.score(row, token) if lane.sampler else None
        gap_s = lane.take(token, score)
        self.figures.generated_tokens += 1
        if gap_s is None:
            self.figures.first_token_s.see((lane.first_token_ns - lane.job.submitted_ns) / 1e9)
        else:
            self.figures.gap_s.see(gap_s)

    def _learn(self, rows: int, guesses: Mapping[Lane, int], seconds: float) -> None:
        """Note what a step took that had ``rows`` rows of generating lanes, their ``guesses`` included."""
        guessed = sum(guesses.values())
        read = self._batch.size - rows
        if read:
            self._pace.see(read, seconds - self._cost.of(rows))
            extra_s = self._cost.of(rows) - self._cost.of(rows - guessed)
        else:
            self._cost.see(rows, seconds)
            extra_s = seconds - self._cost.of(rows - guessed)
        for lane, length in guesses.items():
            lane.record.note(length, lane.accepted)
            self._savings.settle(lane.accepted, extra_s * length / guessed)

    def _finish(self, lane: Lane, reason: FinishReason) -> bool:
        self._leave(lane)
        lane.finish(reason)
        return True

    def _leave(self, lane: Lane) -> None:
        """Take a lane out for good."""
        del self._running[lane.job.number]
        self._must_wait_for_end = False
        self._close_sampler(lane)
        self.cells.leave(lane)

    def _close_sampler(self, lane: Lane) -> None:
        if lane.sampler is not None:
            lane.sampler.close()
            lane.sampler = None

    def _make_room(self) -> None:
        """No free cells: give up finished conversations, then send the youngest lane back to wait."""
        if self.cells.evict():
            return
        placed = [lane for lane in self._running.values() if lane.placed]
        if len(placed) == 1:
            raise EngineFailed("the KV cache has no room for a single prompt that should fit")
        youngest = max(placed, key=_arrival)
        logger.info("KV cache full: request %d waits and goes on later", youngest.job.number)
        self._send_back(youngest)
        # It would otherwise come back at once and be in the way again.
        self._must_wait_for_end = True

    def _send_back(self, lane: Lane) -> None:
        del self._running[lane.job.number]
        self.figures.sent_back += 1
        lane.speak()
        self.cells.clear(lane)
        lane.guess = []
        self._waiting.insert(0, lane)


def _arrival(lane: Lane) -> int:
    return lane.job.number
