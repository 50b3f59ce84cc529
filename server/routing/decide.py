"""A, B or C: one pure function, with its reason in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from server.domain.chat import Message
from server.routing.keep import Division, divide, message_chars


class Strategy(StrEnum):
    """A: the generator alone. B: the helper shortens in one pass first. C: by map-reduce."""

    A = "A"
    B = "B"
    C = "C"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Below ``a_max`` estimated tokens a chat is A, up to ``b_max`` it is B, above it is C.

    What is shortened has at least ``min_material_chars`` characters.
    """

    a_max: int
    b_max: int
    min_material_chars: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done with a chat; ``division`` says what B and C may shorten."""

    strategy: Strategy
    estimated_tokens: int
    reason: str
    division: Division | None = None


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Characters / 4: good enough for the class, and free."""
    return sum(map(message_chars, messages)) // 4


def decide(messages: Sequence[Message], thresholds: Thresholds) -> Plan:
    """Choose the strategy for a chat that names the generator."""
    tokens = estimate_tokens(messages)
    if tokens < thresholds.a_max:
        return Plan(Strategy.A, tokens, f"{tokens} tokens are below STRATEGY_A_MAX = {thresholds.a_max}")
    division = divide(messages, thresholds.a_max * 4, thresholds.min_material_chars)
    if division is None:
        return Plan(Strategy.A, tokens, "nothing in this chat may be shortened")
    if tokens <= thresholds.b_max:
        return Plan(Strategy.B, tokens, f"up to STRATEGY_B_MAX = {thresholds.b_max}: one pass", division)
    return Plan(Strategy.C, tokens, f"above STRATEGY_B_MAX = {thresholds.b_max}: map-reduce", division)
