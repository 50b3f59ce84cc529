"""Guesses of what comes next, where an answer repeats what stands in its prompt.

The guess is read in one step with the token before it, and every token of it that the model would
have picked itself is kept: the text is the same as without, only sooner. (Saxena, "Prompt lookup
decoding", 2023.)
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from server.engine.prefix import Tokens

SHORTEST_MATCH = 3
"""Tokens that must have occurred before, in this order, for a guess."""

MOST_TOKENS = 64
"""The longest guess of all."""

_Ids: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int32]]"

_LONGEST_MATCH = 32
_PLACES = 4
"""How many earlier places are looked at, the last ones first."""

_OVERHEAD = 0.015
"""Share of its time that a generation may lose to guesses that were wrong."""

_OVERDRAFT_TOKENS = 1.5
_SAVINGS_TOKENS = 8.0


def guess(tokens: Tokens, most: int) -> list[int]:
    """What followed the last ``tokens`` where they stood before; at most ``most``, perhaps nothing.

    Of several earlier places the one with the longest match counts. The longer it is, the longer the guess.
    """
    view = np.frombuffer(tokens, np.int32)
    if most <= 0 or len(view) <= SHORTEST_MATCH:
        return []
    ends = _earlier_ends(view)
    best, length = 0, 0
    for end in ends[: -_PLACES - 1 : -1].tolist():
        matched = _match_length(view, end)
        if matched > length:
            best, length = end, matched
    size = min(most, 2 * (length - SHORTEST_MATCH + 1))
    return [int(token) for token in view[best : best + size]] if length else []


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
class Budget:
    """What a generation may spend on guesses: what right ones have saved, and a little of its time.

    In seconds; the price of a token changes with the company in the batch.
    """

    balance_s: float = 0.0
    _token_s: float = 0.0

    def earn(self, token_s: float) -> None:
        """A step begins, in which a token takes ``token_s`` without guesses."""
        self._token_s = token_s
        self.balance_s = min(self.balance_s + _OVERHEAD * token_s, _SAVINGS_TOKENS * token_s)

    def affordable(self, row_s: float) -> int:
        """How many tokens may be guessed at ``row_s`` each, if all of them should turn out wrong."""
        spendable_s = self.balance_s + _OVERDRAFT_TOKENS * self._token_s
        return int(spendable_s / row_s) if row_s > 0 else MOST_TOKENS

    def pay(self, guessed: int, row_s: float) -> None:
        """So many tokens are guessed."""
        self.balance_s -= guessed * row_s

    def gain(self, accepted: int) -> None:
        """So many of them were right: as many steps are saved."""
        self.balance_s = min(self.balance_s + accepted * self._token_s, _SAVINGS_TOKENS * self._token_s)
