"""Guesses of what comes next, where an answer repeats what stands in its prompt.

The guess is read in one step with the token before it, and every token of it that the model would
have picked itself is kept: the text is the same as without, only sooner. (Saxena, "Prompt lookup
decoding", 2023.)
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from server.engine.pace import StepCost
from server.engine.prefix import Tokens

SHORTEST_MATCH = 3
"""Tokens that must have occurred before, in this order, for a guess."""

_Ids: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int32]]"

_LONGEST_MATCH = 48
_PLACES = 4
"""How many earlier places are looked at, the last ones first."""

_OVERHEAD = 0.01
"""Share of their time that generations may lose to guesses that were wrong."""

_MATCH_PER_TOKEN = 4
"""For so many tokens that stood before in the same order, a step may take one token's time longer."""

_LARGEST_OVERDRAFT_TOKENS = 4.0
_LARGEST_SAVINGS_TOKENS = 48.0
_LEAST_GAIN = 1.05
_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
_TRUST = 4.0
"""Weight of a match's length, in guessed tokens, against the record of guesses."""

_FADING = 0.9


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next, and how many before them stood in the same order at the other place."""

    tokens: list[int]
    matched: int


NOTHING = Guess([], 0)


def guess(tokens: Tokens, most: int) -> Guess:
    """What followed the last ``tokens`` where they stood before; at most ``most``, perhaps nothing.

    Of several earlier places the one with the longest match counts. The longer it is, the longer the guess.
    """
    if most <= 0 or not _may_repeat(tokens):
        return NOTHING
    view = np.frombuffer(tokens, np.int32)
    ends = _earlier_ends(view)
    best, length = 0, 0
    for end in ends[: -_PLACES - 1 : -1].tolist():
        matched = _match_length(view, end)
        if matched > length:
            best, length = end, matched
    size = min(most, 2 * (length - SHORTEST_MATCH + 1))
    return Guess([int(token) for token in view[best : best + size]], length) if length else NOTHING


def best_length(most: int, chance: float, streams: int, cost: StepCost, spendable_s: float) -> int:
    """How many tokens to guess, at most ``most``, for the most tokens a second; 0 where none pays.

    Each is right with ``chance`` if the ones before it are. Beside it ``streams`` answers get their token
    in the same step. ``spendable_s`` is what the step may take longer: where a long guess would pay, but
    is too dear yet, a shorter one earns what it takes.
    """
    alone_s = cost.of(streams)
    if spendable_s <= 0 or not alone_s:
        return 0
    best, best_speed, affordable = 0, streams / alone_s * _LEAST_GAIN, 0
    for length in sorted({*(size for size in _SIZES if size < most), max(most, 0)}):
        step_s = cost.of(streams + length)
        if length < _SIZES[0]:
            continue
        if step_s - alone_s <= spendable_s:
            affordable = length
        right = chance * (1 - chance**length) / (1 - chance)
        if (streams + right) / step_s > best_speed:
            best, best_speed = length, (streams + right) / step_s
    return min(best, affordable)


def _may_repeat(tokens: Tokens) -> bool:
    """Whether the last SHORTEST_MATCH tokens can have stood there before: one quick look at all bytes."""
    last = tokens[-SHORTEST_MATCH:].tobytes()
    return tokens.tobytes().find(last) < (len(tokens) - SHORTEST_MATCH) * tokens.itemsize


def _earlier_ends(view: _Ids) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Positions behind each earlier occurrence of the last SHORTEST_MATCH tokens."""
    ends = np.flatnonzero(view[SHORTEST_MATCH - 1 : -1] == view[-1]) + SHORTEST_MATCH
    for back in range(2, SHORTEST_MATCH + 1):
        ends = ends[view[ends - back] == view[-back]]
    return ends


def _match_length(view: _Ids, end: int) -> int:
    longest = min(end, _LONGEST_MATCH)
    differs = view[end - longest : end] != view[len(view) - longest :]
    # The last difference, counted from the end.
    from_end = int(differs[::-1].argmax())
    return from_end if differs.any() else longest


@dataclass(slots=True)
class Record:
    """How often a generation's guesses were right. It fades, so that one that begins to repeat its prompt
    gets another chance."""

    _tried: float = 0.0
    _right: float = 0.0

    def chance(self, matched: int) -> float:
        """How likely a guessed token is right, by the length of the match and the record so far."""
        at_first = matched / (matched + 1)
        return (self._right + _TRUST * at_first) / (self._tried + _TRUST)

    def note(self, guessed: int, right: int) -> None:
        """The first ``right`` of ``guessed`` tokens were right."""
        # Behind the first wrong one, nothing is known of the others.
        self._tried = _FADING * self._tried + min(guessed, right + 1)
        self._right = _FADING * self._right + right


@dataclass(slots=True)
class Savings:
    """What an engine's generations may spend on guesses: what right ones have saved, and a little of
    their time. ``balance_s`` is in seconds."""

    balance_s: float = 0.0
    _token_s: float = 0.0

    def earn(self, token_s: float) -> None:
        """A step begins, in which a token takes ``token_s`` without guesses."""
        self._token_s = token_s
        self._add(_OVERHEAD * token_s)

    def spendable_s(self, matched: int) -> float:
        """How much longer a step may take, if all that is guessed should turn out wrong.

        The longer the match, the less likely that is, so the more may be borrowed.
        """
        borrowed = min(matched / _MATCH_PER_TOKEN, _LARGEST_OVERDRAFT_TOKENS)
        return self.balance_s + borrowed * self._token_s

    def settle(self, right: int, extra_s: float) -> None:
        """For ``right`` guessed tokens that were right, a step took ``extra_s`` longer."""
        self._add(right * self._token_s - extra_s)

    def _add(self, seconds: float) -> None:
        self.balance_s = min(self.balance_s + seconds, _LARGEST_SAVINGS_TOKENS * self._token_s)
