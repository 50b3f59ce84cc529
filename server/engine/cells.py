"""Who lies where in the KV cache: sequences are given out, shared, kept, moved to host memory and back."""

from collections.abc import Sequence

from server.engine.figures import Figures
from server.engine.lane import NOWHERE, Lane
from server.engine.llamacpp.context import Context
from server.engine.prefix import Held, Match, PrefixCache, Tokens, common_prefix, distinct_tokens
from server.engine.store import StateStore, Stored

WORTH_MOVING_TOKENS = 64
"""What has fewer tokens that nothing else here begins with is read again as soon as it would be copied."""

LIGHT_PART = 8
"""One kept cell for so many that run slows nobody down."""

WORTH_WAITING_TOKENS = 64
"""What a lane must gain to wait for another that is about to read what it begins with."""


class Cells:
    """The KV cache of one context with its books. Belongs to the engine's thread."""

    def __init__(self, context: Context, store: StateStore, figures: Figures, *, trimmable: bool) -> None:
        self._context = context
        self._store = store
        self._figures = figures
        self._trimmable = trimmable
        self._cache = PrefixCache(context.shape.sequences, trimmable)
        self._living: dict[int, Lane] = {}
        self._unfiled: list[int] = []

    @property
    def kept_sequences(self) -> int:
        """Number of finished conversations and beginnings that are kept."""
        return self._cache.kept_sequences

    @property
    def kept_tokens(self) -> int:
        """Sum of their tokens, shared ones counted for each."""
        return self._cache.kept_tokens

    @property
    def known(self) -> tuple[Tokens, ...]:
        """What finished conversations and beginnings hold, wherever their states are; never changed."""
        return (*(held.tokens for held in self._cache.kept), *self._store.known)

    def place(self, lane: Lane) -> bool:
        """Give a lane its sequence, with as much of its beginning as is known anywhere.

        False: another lane is about to read what this one begins with, so it waits.
        """
        match = self._best_match(lane)
        if self._trimmable and self._is_being_read(lane, match.tokens):
            return False
        if not self._bring_back(lane, match):
            # Fetching may have evicted or written over what was found before.
            self._reuse(lane, self._best_match(lane))
        self._living[lane.sequence] = lane
        self.passed_borders(lane, 0)
        return True

    def leave(self, lane: Lane) -> None:
        """Take a lane's sequence; what it has read is kept for the next turn."""
        if not lane.placed:
            return
        if self._trimmable:
            # Behind what counts as read there may be a guess that came to nothing.
            self._context.cut(lane.sequence, lane.held)
        del self._living[lane.sequence]
        if lane.held:
            self._forget(self._cache.keep(lane.sequence, lane.tokens[: lane.held]))
        else:
            self._free(lane.sequence)
        lane.sequence, lane.held = NOWHERE, 0

    def clear(self, lane: Lane) -> None:
        """Take a lane's sequence and free its cells; it starts anew later."""
        if not lane.placed:
            return
        del self._living[lane.sequence]
        self._move_out(lane.holding)
        self._free(lane.sequence)
        lane.sequence, lane.held = NOWHERE, 0

    def cut_back(self, lane: Lane) -> None:
        """Remove what lies behind that which counts as read, or all where the model cannot cut there."""
        if not self._context.cut(lane.sequence, lane.held):
            del self._living[lane.sequence]
            self._free(lane.sequence)
            lane.sequence, lane.held = NOWHERE, 0

    def evict(self, sparing: int | None = None) -> bool:
        """Free the cells of what was used longest ago; False if nothing is kept."""
        oldest = self._cache.oldest(sparing)
        if oldest is None:
            return False
        self._evict(oldest)
        return True

    def lighten(self, *, most_tokens: int) -> None:
        """Move kept conversations to host memory while they take many cells beside the living ones.

        The model looks at each cell up to the last one in use, if only to see that it is not meant: 4,000
        kept cells cost a small model a fifth of its speed. Copying takes time as well, so no more than
        ``most_tokens`` are copied. Nothing is given up for that: what finds no room stays.
        """
        while (held := self._in_the_way()) and len(held.tokens) <= most_tokens:
            most_tokens -= len(held.tokens)
            self._evict(held)

    def lighten_once(self) -> None:
        """Move one kept conversation, of any length, that is in the way of the living ones."""
        if held := self._in_the_way():
            self._evict(held)

    def evict_all(self) -> None:
        """Move everything kept to host memory, because the context goes away."""
        while self.evict():
            pass

    def passed_borders(self, lane: Lane, before: int) -> None:
        """Keep the beginnings of a lane that end between ``before`` and what it has read now."""
        for border in lane.borders:
            if before < border <= lane.held and (self._trimmable or border == lane.held):
                self._keep_beginning(lane, border)

    @property
    def untidy(self) -> bool:
        """Whether there is something to do that nobody waits for."""
        # One at a time, since each takes memory until it is written.
        return bool(self._unfiled) and not self._store.writing

    def tidy(self) -> None:
        """Hand a lasting beginning to the store, which writes it to disk."""
        held = self._cache.find(self._unfiled.pop())
        if held and held.pinned and not self._store.holds(held.tokens, lasting=True):
            self._store.put(held.tokens, self._context.save(held.sequence), lasting=True)

    def tidy_up(self) -> None:
        """Do all of it, because the context goes away."""
        while self._unfiled:
            self.tidy()

    def _in_the_way(self) -> Held | None:
        """The kept conversation that should make way for the living ones and can without being lost."""
        running = [lane.tokens for lane in self._living.values()]
        oldest = self._cache.oldest_beside(running)
        if not self._trimmable or oldest is None:
            return None
        if self._cache.cells_beside(running) <= distinct_tokens(running) // LIGHT_PART:
            return None
        has_room = self._store.has_room(self._context.state_bytes(oldest.sequence))
        return oldest if has_room or self._lost_without(oldest) < WORTH_MOVING_TOKENS else None

    def _best_match(self, lane: Lane) -> Match:
        living_too = (other.holding for other in self._living.values())
        to_the_end = lane.opening is not None
        return self._cache.best_match(lane.tokens, living_too, self._reaches, to_the_end=to_the_end)

    def _reaches(self, sequence: int, position: int) -> bool:
        return not self._trimmable or self._context.reaches(sequence, position)

    def _is_being_read(self, lane: Lane, known_tokens: int) -> bool:
        """Whether waiting for another lane gains more than starting with ``known_tokens`` now."""
        return any(
            common_prefix(lane.tokens, other.tokens) >= known_tokens + WORTH_WAITING_TOKENS
            for other in self._living.values()
            # Background work rests while a chat waits: that would be for ever.
            if not other.generating and other.background <= lane.background
        )

    def _bring_back(self, lane: Lane, match: Match) -> bool:
        """Fetch a state from host memory or disk, if it saves reading."""
        stored = self._store.best_match(lane.tokens, most_tokens=self._context.context_tokens)
        if stored is None or stored.tokens < match.tokens + WORTH_WAITING_TOKENS:
            return False
        beside = distinct_tokens(other.tokens for other in self._living.values())
        if beside + stored.held > self._context.context_tokens:
            return False
        return self._restore(lane, stored)

    def _restore(self, lane: Lane, stored: Stored) -> bool:
        state = self._store.take(stored)
        if state is None:
            return False
        sequence = self._sequence_for(Match())
        while not self._context.restore(sequence, state):
            if not self.evict():
                self._free(sequence)
                return False
        if stored.tokens < stored.held:
            self._context.cut(sequence, stored.tokens)
        lane.place(sequence, stored.tokens)
        self._figures.restored_tokens += stored.tokens
        return True

    def _reuse(self, lane: Lane, match: Match) -> None:
        self._cache.touch(match.sequence)
        sequence = self._sequence_for(match)
        if match.sequence is not None and match.sequence != sequence:
            self._context.share(match.sequence, sequence, match.tokens)
        lane.place(sequence, match.tokens)

    def _sequence_for(self, match: Match) -> int:
        try:
            return self._cache.take(match)
        except LookupError:
            self.evict(sparing=match.sequence)
            return self._cache.take(match)

    def _keep_beginning(self, lane: Lane, length: int) -> None:
        lasting = length == lane.job.generation.lasting_tokens
        tokens = lane.tokens[:length]
        if self._cache.refresh(tokens):
            return
        try:
            sequence = self._sequence_for(Match())
        except LookupError:
            return
        self._context.share(lane.sequence, sequence, length)
        self._forget(self._cache.keep(sequence, tokens, pinned=lasting))
        if lasting and self._store.has_disk and not self._store.holds(tokens, lasting=True):
            self._unfiled.append(sequence)

    def _evict(self, held: Held) -> None:
        self._cache.give_up(held)
        self._figures.evictions += 1
        self._move_out(held)
        self._context.cut(held.sequence, 0)

    def _move_out(self, held: Held) -> None:
        worth_it = self._store.keeps_any and self._lost_without(held) >= WORTH_MOVING_TOKENS
        if not worth_it or self._store.holds(held.tokens, lasting=held.pinned):
            return
        self._store.put(held.tokens, self._context.save(held.sequence), lasting=held.pinned)

    def _lost_without(self, held: Held) -> int:
        """How many tokens would have to be read again if nothing but ``held`` went.

        A turn of a conversation that goes on is nearly all in the next one: to copy it would cost more than
        reading what it alone has. What is pinned is copied for its own sake.
        """
        if held.pinned or not self._trimmable:
            return len(held.tokens)
        others = [*self._cache.kept_beside(held.sequence), *(lane.holding for lane in self._living.values())]
        return len(held.tokens) - max(
            (common_prefix(held.tokens, other.tokens) for other in others), default=0
        )

    def _forget(self, superfluous: Sequence[int]) -> None:
        for sequence in superfluous:
            self._context.cut(sequence, 0)

    def _free(self, sequence: int) -> None:
        self._context.cut(sequence, 0)
        self._cache.give_back(sequence)
