"""Comparing greedy texts of the same prompt that were computed in batches of other shapes.

A batch of another size, or a prefix from the cache, sums in another order, which moves logits by
some tenths. Two texts are the same if they are equal up to a place where the model itself all but
wavers: the token that the other run took has nearly the probability of the best one.
"""

from server.domain.generation import TokenScore
from tests.engine.listening import Listener

TIE = 0.7
"""Difference of two logarithms of probabilities that rounding can turn over; measured, not derived."""


def scores_of(answer: Listener) -> list[TokenScore]:
    """The picked tokens with their probabilities; the generation must have asked for alternatives."""
    return [*answer.scores, *answer.finished().scores]


def first_difference(reference: Listener, other: Listener) -> int | None:
    """The first place where the tokens differ although the reference was sure; None if there is none."""
    for place, (one, two) in enumerate(zip(scores_of(reference), scores_of(other), strict=False)):
        if one.token != two.token:
            rivals = {rival.token: rival.logprob for rival in one.alternatives}
            return None if one.logprob - rivals.get(two.token, float("-inf")) < TIE else place
    return None


def agree_throughout(reference: Listener, other: Listener) -> bool:
    """Whether the tokens are equal to the last one."""
    return reference.finished().tokens == other.finished().tokens
