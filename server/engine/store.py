"""Where states of the KV cache live when they are not in the KV cache: in host memory, some on disk."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from server.engine.disktier import DiskTier, Filed
from server.engine.prefix import Tokens, common_prefix
from server.engine.statefile import State

logger = logging.getLogger(__name__)

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry that begins like a prompt."""

    number: int
    """Identifies the entry."""
    tokens: int
    """Tokens of the prompt that it saves reading; at most all but the last."""
    held: int
    """Tokens in the state."""


@dataclass(slots=True)
class _Entry:
    """A state in memory, on disk, or in both while it is being written."""

    tokens: Tokens
    lasting: bool
    used: int
    state: State | None = None
    filed: Filed | None = None
    being_written: bool = False

    @property
    def ram_bytes(self) -> int:
        return 0 if self.state is None else memoryview(self.state).nbytes

    @property
    def budgeted_bytes(self) -> int:
        return 0 if self.being_written else self.ram_bytes


class StateStore:
    """States by the tokens that they hold, at most ``ram_bytes`` of them in memory.

    Lasting states go on to ``disk`` in a thread of their own; on their way they are beside the budget, so
    that it may be smaller than one of them. A ``trimmable`` state can be cut back to any of its tokens, so
    that a longer one serves for a shorter; states of recurrent models cannot. All calls come from one
    thread, and only the counts may be read from any.
    """

    def __init__(self, ram_bytes: int, disk: DiskTier | None, *, trimmable: bool = True) -> None:
        self._budget_bytes = ram_bytes
        self._disk = disk
        self._trimmable = trimmable
        self._lock = threading.Lock()
        self._entries: dict[int, _Entry] = {}
        self._numbers = 0
        self._clock = 0
        self._evictions = 0
        self._said_too_large = False
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state-writer")
        for filed in disk.found if disk else ():
            self._add(_Entry(filed.tokens, True, self._tick(), filed=filed))

    @property
    def ram_bytes(self) -> int:
        """Bytes of the states in memory, those on their way to disk included."""
        with self._lock:
            return sum(entry.ram_bytes for entry in self._entries.values())

    @property
    def writing(self) -> bool:
        """Whether a state is on its way to disk."""
        with self._lock:
            return any(entry.being_written for entry in self._entries.values())

    @property
    def has_disk(self) -> bool:
        """Whether lasting states get to a disk."""
        return self._disk is not None and self._disk.writable

    @property
    def keeps_any(self) -> bool:
        """Whether there is any place for a state."""
        return self._budget_bytes > 0 or self.has_disk

    @property
    def disk_bytes(self) -> int:
        """Bytes of the files of this store's states, as far as it knows."""
        with self._lock:
            return sum(entry.filed.file_bytes for entry in self._entries.values() if entry.filed)

    @property
    def entries(self) -> int:
        """Number of states."""
        with self._lock:
            return len(self._entries)

    @property
    def known(self) -> tuple[Tokens, ...]:
        """The tokens of all states."""
        with self._lock:
            return tuple(entry.tokens for entry in self._entries.values())

    @property
    def evictions(self) -> int:
        """States that were given up so far to make room, in memory or on disk."""
        with self._lock:
            return self._evictions

    def best_match(self, prompt: Tokens, *, most_tokens: int) -> Stored | None:
        """The state that saves reading most of ``prompt``, among those of at most ``most_tokens``.

        At least the last token of the prompt is left to be read: its logits are needed. Among equals the
        shortest state wins.
        """
        best: Stored | None = None
        with self._lock:
            for number, entry in self._entries.items():
                match = Stored(number, self._usable(entry.tokens, prompt), len(entry.tokens))
                if match.tokens > 0 and match.held <= most_tokens and _better(match, best):
                    best = match
        return best

    def holds(self, tokens: Tokens, *, lasting: bool) -> bool:
        """Whether ``put`` of a state for these tokens would add nothing."""
        with self._lock:
            return self._serving(tokens, lasting) is not None

    def has_room(self, state_bytes: int) -> bool:
        """Whether a state of this size can be kept without giving up another."""
        with self._lock:
            taken = sum(entry.budgeted_bytes for entry in self._entries.values())
        return taken + state_bytes <= self._budget_bytes

    def put(self, tokens: Tokens, state: State, *, lasting: bool) -> None:
        """Keep a state, which nobody may change from now on, and give up others for its room.

        It takes the place of states that it can serve for. Where it is larger than the budget, it is not
        kept. ``lasting`` ones (system prompts) are never superseded, and outlive the process where there
        is a disk.
        """
        disk = self._disk if lasting and self.has_disk else None
        with self._lock:
            number = self._serving(tokens, lasting)
            entry = _Entry(tokens[:], lasting, self._tick(), state, being_written=disk is not None)
            if number is None and not self._admit(entry):
                return
        if number is not None:
            self._use(number)
        elif disk:
            # Nobody waits for the future; raised in a callback, a fault of ours gets into the log.
            self._writer.submit(self._write, disk, entry, state).add_done_callback(Future.result)

    def take(self, match: Stored) -> State | None:
        """The state of a match; None, with a line in the log, if its file has gone or is damaged.

        Reading a file takes as long as the disk takes, and the entry is dropped when that fails.
        """
        with self._lock:
            entry = self._entries.get(match.number)
            state, filed = (entry.state, entry.filed) if entry else (None, None)
        if state is None and filed and self._disk:
            state = self._disk.read(filed)
        if state is None:
            self._drop(match.number)
        else:
            self._use(match.number)
        return state

    def close(self) -> None:
        """Wait until every lasting state is on disk; nothing may be put afterwards."""
        self._writer.shutdown()

    def _usable(self, held: Tokens, prompt: Tokens) -> int:
        length = min(common_prefix(prompt, held), len(prompt) - 1)
        return length if self._trimmable or length == len(held) else 0

    def _covers(self, longer: Tokens, shorter: Tokens) -> bool:
        """Whether a state of ``longer`` serves wherever one of ``shorter`` does."""
        begins = common_prefix(longer, shorter) == len(shorter)
        return begins and (self._trimmable or len(longer) == len(shorter))

    def _serving(self, tokens: Tokens, lasting: bool) -> int | None:
        """The entry that makes another one for ``tokens`` superfluous."""
        for number, entry in self._entries.items():
            # A longer state may not fit the next start's context, so a lasting one yields to its equal only.
            equal = entry.lasting and entry.tokens == tokens
            if equal or (not lasting and self._covers(entry.tokens, tokens)):
                return number
        return None

    def _admit(self, entry: _Entry) -> bool:
        """Take an entry in and others out; False, and none taken out, if that would not be enough."""
        if entry.budgeted_bytes > self._budget_bytes:
            self._warn_of_size(entry.budgeted_bytes)
            return False
        self._supersede(entry.tokens)
        self._add(entry)
        self._keep_to_budget()
        return True

    def _warn_of_size(self, state_bytes: int) -> None:
        # Without any budget, nobody expects otherwise.
        if self._budget_bytes and not self._said_too_large:
            self._said_too_large = True
            logger.warning(
                "a state of %d MiB is not kept, and larger ones will not be: host_cache_mib allows %d MiB",
                state_bytes // _MIB,
                self._budget_bytes // _MIB,
            )

    def _supersede(self, tokens: Tokens) -> None:
        superfluous = [
            number
            for number, entry in self._entries.items()
            if not entry.lasting and self._covers(tokens, entry.tokens)
        ]
        for number in superfluous:
            del self._entries[number]

    def _keep_to_budget(self) -> None:
        """Give up the states in memory that were used longest ago, until the rest is within the budget."""
        excess = sum(entry.budgeted_bytes for entry in self._entries.values()) - self._budget_bytes
        oldest_first = sorted(self._entries.items(), key=lambda item: item[1].used)
        for number, entry in oldest_first:
            if excess <= 0:
                return
            if entry.budgeted_bytes:
                excess -= entry.budgeted_bytes
                del self._entries[number]
                self._evictions += 1

    def _write(self, disk: DiskTier, entry: _Entry, state: State) -> None:
        """Runs in the writer's thread. From the disk on, the page cache keeps the state in memory."""
        try:
            outcome = disk.write(entry.tokens, state)
            with self._lock:
                self._forget(outcome.evicted)
                entry.filed = outcome.filed
                entry.state = None if outcome.filed else state
        finally:
            with self._lock:
                entry.being_written = False
                self._keep_to_budget()

    def _forget(self, evicted: tuple[str, ...]) -> None:
        """Drop the entries whose files have gone."""
        self._evictions += len(evicted)
        gone = [
            number for number, entry in self._entries.items() if entry.filed and entry.filed.name in evicted
        ]
        for number in gone:
            del self._entries[number]

    def _use(self, number: int) -> None:
        with self._lock:
            entry = self._entries.get(number)
            if entry is None:
                return
            entry.used = self._tick()
            filed = entry.filed
        if filed and self._disk:
            self._disk.touch(filed)

    def _drop(self, number: int) -> None:
        with self._lock:
            self._entries.pop(number, None)

    def _add(self, entry: _Entry) -> None:
        self._numbers += 1
        self._entries[self._numbers] = entry

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _better(match: Stored, best: Stored | None) -> bool:
    return best is None or (match.tokens, -match.held) > (best.tokens, -best.held)
