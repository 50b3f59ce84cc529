"""Which tokens are in which sequence of the KV cache, and what of them a new prompt can reuse."""

import itertools
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

Tokens: TypeAlias = "array[int]"
"""Token ids as ``array("i")``: grows by appending, compares without copying."""


def tokens_of(ids: Iterable[int]) -> Tokens:
    """Token ids in the form that this package keeps them in."""
    return array("i", ids)


def common_prefix(left: Tokens, right: Tokens) -> int:
    """Number of equal tokens at the start of both."""
    shorter = min(len(left), len(right))
    if shorter == 0:
        return 0
    differs = np.frombuffer(left, np.int32)[:shorter] != np.frombuffer(right, np.int32)[:shorter]
    first = int(differs.argmax())
    return first if differs[first] else shorter


def distinct_tokens(sequences: Iterable[Tokens]) -> int:
    """Cells that ``sequences`` take together when each beginning that some have in common is stored once."""
    # In the order of their bytes, the nearest relative of each stands before it.
    ordered = sorted(sequences, key=lambda tokens: tokens.tobytes())
    shared = sum(common_prefix(left, right) for left, right in itertools.pairwise(ordered))
    return sum(map(len, ordered)) - shared


@dataclass(slots=True)
class Held:
    """The tokens that one sequence of the KV cache holds. ``used`` is a clock of uses.

    ``pinned``: every new conversation starts with it, so it goes last.
    """

    sequence: int
    tokens: Tokens
    used: int
    pinned: bool = False


def _always(_sequence: int, _tokens: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Match:
    """The best place to take a prompt's beginning from; ``tokens`` 0 and no sequence: none."""

    sequence: int | None = None
    tokens: int = 0
    whole: bool = False
    """The match covers everything that the sequence holds."""


@dataclass(slots=True)
class PrefixCache:
    """Finished conversations that still lie in the KV cache, and the free sequence numbers.

    It only keeps the books: the caller moves the cells. ``trimmable`` is False for models whose
    state cannot be cut back to an earlier token (recurrent ones): they reuse whole states only.
    """

    sequences: int
    trimmable: bool = True
    pins: int = 4
    """Most pinned ones; one more, and the pinned one used longest ago is like any other."""
    _free: list[int] = field(init=False)
    _kept: dict[int, Held] = field(init=False, default_factory=dict)
    _clock: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._free = list(range(self.sequences - 1, -1, -1))

    @property
    def kept_tokens(self) -> int:
        """Sum of the tokens of all finished conversations, shared ones counted for each."""
        return sum(len(held.tokens) for held in self._kept.values())

    def cells_beside(self, running: Sequence[Tokens]) -> int:
        """Cells that are in use only because something is kept."""
        kept = (held.tokens for held in self._kept.values())
        return distinct_tokens([*running, *kept]) - distinct_tokens(running)

    @property
    def kept_sequences(self) -> int:
        """Number of finished conversations."""
        return len(self._kept)

    def best_match(
        self,
        prompt: Tokens,
        living: Iterable[Held],
        reaches: Callable[[int, int], bool] = _always,
        *,
        to_the_end: bool = False,
    ) -> Match:
        """The longest beginning of ``prompt`` among kept and ``living`` sequences.

        At least the last token of the prompt is left to be read, since its logits are needed, unless
        ``to_the_end``. ``reaches`` says whether a sequence can still go on behind so many of its tokens.
        """
        best = Match()
        most = len(prompt) - (not to_the_end)
        for held in (*self._kept.values(), *living):
            length = min(common_prefix(prompt, held.tokens), most)
            whole = length == len(held.tokens)
            if length > best.tokens and (self.trimmable or whole) and reaches(held.sequence, length):
                best = Match(held.sequence, length, whole)
        return best

    def take(self, match: Match) -> int:
        """A sequence number for a new job: the matched one if used up by it, else a free one.

        Raises:
            LookupError: every number is in use; evict first.
        """
        kept = None if match.sequence is None else self._kept.get(match.sequence)
        if kept and match.whole and not kept.pinned:
            del self._kept[kept.sequence]
            return kept.sequence
        if not self._free:
            raise LookupError("no free sequence")
        return self._free.pop()

    def keep(self, sequence: int, tokens: Tokens, *, pinned: bool = False) -> tuple[int, ...]:
        """Keep a finished job's tokens; returns sequences that this makes superfluous.

        Their numbers are free again, and the caller removes their cells.
        """
        self._clock += 1
        covered = self._covered_by(tokens)
        for superfluous in covered:
            self._release(superfluous)
        self._kept[sequence] = Held(sequence, tokens, self._clock, pinned)
        pins = sorted((held for held in self._kept.values() if held.pinned), key=lambda held: held.used)
        for one_too_many in pins[: -self.pins]:
            one_too_many.pinned = False
        return covered

    def _covered_by(self, tokens: Tokens) -> tuple[int, ...]:
        """Kept sequences that are of no use beside ``tokens``: all their tokens are there as well."""
        return tuple(
            held.sequence
            for held in self._kept.values()
            if not held.pinned
            and (self.trimmable or len(held.tokens) == len(tokens))
            and common_prefix(held.tokens, tokens) == len(held.tokens)
        )

    def refresh(self, tokens: Tokens) -> bool:
        """Note a use of the kept sequence with exactly these tokens; False if there is none."""
        for held in self._kept.values():
            if held.tokens == tokens:
                self.touch(held.sequence)
                return True
        return False

    @property
    def kept(self) -> tuple[Held, ...]:
        """Everything that is kept."""
        return tuple(self._kept.values())

    def kept_beside(self, sequence: int) -> tuple[Held, ...]:
        """What is kept in other sequences."""
        return tuple(held for held in self._kept.values() if held.sequence != sequence)

    def find(self, sequence: int) -> Held | None:
        """What a kept sequence holds."""
        return self._kept.get(sequence)

    def give_back(self, sequence: int) -> None:
        """Free the number of a sequence whose cells hold nothing worth keeping."""
        self._free.append(sequence)

    def touch(self, sequence: int | None) -> None:
        """Note that a kept sequence was of use again."""
        if sequence in self._kept:
            self._clock += 1
            self._kept[sequence].used = self._clock

    def oldest(self, sparing: int | None = None) -> Held | None:
        """What was used longest ago, the pinned ones last; None if there is nothing."""
        return _oldest(held for held in self._kept.values() if held.sequence != sparing)

    def oldest_beside(self, running: Sequence[Tokens]) -> Held | None:
        """The same of what takes cells beside the ``running`` ones."""
        return _oldest(
            held
            for held in self._kept.values()
            if all(common_prefix(held.tokens, tokens) < len(held.tokens) for tokens in running)
        )

    def give_up(self, held: Held) -> None:
        """Forget what a kept sequence holds; its number is free again."""
        self._release(held.sequence)

    def _release(self, sequence: int) -> None:
        del self._kept[sequence]
        self._free.append(sequence)


def _oldest(kept: Iterable[Held]) -> Held | None:
    return min(kept, key=lambda held: (held.pinned, held.used), default=None)
