"""A, B or C: one pure function, with its reason in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from server.domain.chat import Message, Policy
from server.engine.pace import Speed
from server.routing.keep import Division, divide, message_chars
from server.routing.pieces import as_text
from server.routing.squeeze import AHEAD_SHARE, START_SHARE, Marks, answer_room

Count = Callable[[str], int]
"""Tokens of a text in the generator's vocabulary."""


class Strategy(StrEnum):
    """A: the generator alone. B: the helper shortens in one pass first. C: by map-reduce."""

    A = "A"
    B = "B"
    C = "C"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Below ``a_max`` tokens that may be shortened and are not read yet a chat is A, up to ``b_max`` it is B,
    above it is C.

    What is shortened has at least ``min_material_chars`` characters, and becomes a summary of about
    ``summary_tokens``. ``by_chars``: a chat counts as a
    quarter of its characters, whatever the cache holds.
    """

    a_max: int
    b_max: int
    min_material_chars: int
    by_chars: bool = False
    summary_tokens: int = 170


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a chat before anything is done with it.

    ``tokens`` is the prompt as the client sent it; ``held_tokens`` of those are in the generator's cache,
    and ``window_tokens`` fit. ``agent`` says in words what shows that an agent is at work. The speeds are
    those of both engines lately.
    """

    tokens: int
    held_tokens: int
    window_tokens: int
    agent: str | None
    generator: Speed = field(default_factory=Speed)
    helper: Speed = field(default_factory=Speed)

    @property
    def unread_tokens(self) -> int:
        """What the generator would have to read."""
        return self.tokens - self.held_tokens

    @property
    def fits(self) -> bool:
        """Whether the window holds the chat and a short answer."""
        return self.tokens + answer_room(self.window_tokens) <= self.window_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done with a chat. ``division`` says what B and C may shorten; ``squeeze`` that old tool
    results give way, and ``ahead`` that they will soon. ``tokens`` is what the log calls the chat's size."""

    strategy: Strategy
    tokens: int
    reason: str
    division: Division | None = None
    squeeze: bool = False
    ahead: bool = False


_ALWAYS = {Policy.DIRECT: Strategy.A, Policy.ONE_PASS: Strategy.B, Policy.MAP_REDUCE: Strategy.C}
"""Policies that do not go by what the chat is like."""


def decide(
    messages: Sequence[Message], facts: Facts, policy: Policy, thresholds: Thresholds, count: Count
) -> Plan:
    """Choose what to do with a chat under ``policy``."""
    if policy in _ALWAYS:
        return _always(messages, facts, policy, thresholds)
    if policy is Policy.AGENT:
        return _for_agent(facts, "the policy is agent")
    if policy in (Policy.AUTO, Policy.ADAPTIVE) and facts.agent:
        return _for_agent(facts, facts.agent)
    if policy is Policy.ADAPTIVE:
        return _by_time(messages, facts, thresholds, count)
    if thresholds.by_chars:
        return _by_chars(messages, thresholds)
    return _by_tokens(messages, facts, thresholds, count)


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Characters / 4: free, and wrong by a factor of 1.4 where a chat is full of code."""
    return sum(map(message_chars, messages)) // 4


def _always(messages: Sequence[Message], facts: Facts, policy: Policy, thresholds: Thresholds) -> Plan:
    if policy is Policy.DIRECT:
        return Plan(Strategy.A, facts.tokens, "the policy is direct")
    least = thresholds.min_material_chars
    division = divide(messages, least, least)
    if division is None:
        return Plan(Strategy.A, facts.tokens, "nothing in this chat may be shortened")
    return Plan(_ALWAYS[policy], facts.tokens, f"the policy is {policy}", division)


def _for_agent(facts: Facts, why: str) -> Plan:
    start = Marks.of(facts.window_tokens).start
    share = f"{START_SHARE:.0%} of the window of {facts.window_tokens}"
    ahead = facts.tokens > AHEAD_SHARE * facts.window_tokens
    if facts.tokens <= start:
        reason = f"{why}: {facts.tokens} tokens are within {share}"
        return Plan(Strategy.A, facts.tokens, reason, ahead=ahead)
    reason = f"{why}: {facts.tokens} tokens are above {share}, so old tool results give way"
    return Plan(Strategy.A, facts.tokens, reason, squeeze=True, ahead=ahead)


def _by_chars(messages: Sequence[Message], thresholds: Thresholds) -> Plan:
    tokens = estimate_tokens(messages)
    if tokens < thresholds.a_max:
        return Plan(Strategy.A, tokens, f"{tokens} tokens are below STRATEGY_A_MAX = {thresholds.a_max}")
    division = _division(messages, thresholds)
    if division is None:
        return Plan(Strategy.A, tokens, "nothing in this chat may be shortened")
    return _shorten(tokens, tokens, division, thresholds)


def _by_tokens(messages: Sequence[Message], facts: Facts, thresholds: Thresholds, count: Count) -> Plan:
    a_max, size = thresholds.a_max, facts.tokens
    if size < a_max:
        return Plan(Strategy.A, size, f"{size} tokens are below STRATEGY_A_MAX = {a_max}")
    if facts.fits and facts.unread_tokens < a_max:
        reason = f"{facts.unread_tokens} tokens are not in the cache yet, below STRATEGY_A_MAX = {a_max}"
        return Plan(Strategy.A, size, reason)
    division = _division(messages, thresholds)
    if division is None:
        return Plan(Strategy.A, size, "nothing in this chat may be shortened")
    material = count(as_text(division.history, division.parts.material))
    if not facts.fits:
        return _shorten(size, material, division, thresholds)
    material = min(material, facts.unread_tokens)
    if material < a_max:
        reason = f"{material} tokens may be shortened, below STRATEGY_A_MAX = {a_max}"
        return Plan(Strategy.A, size, reason)
    return _shorten(size, material, division, thresholds)


def _by_time(messages: Sequence[Message], facts: Facts, thresholds: Thresholds, count: Count) -> Plan:
    """Whatever gives the first token soonest; by the thresholds as long as nobody knows what that is."""
    read_s, helper = facts.generator.read_s, facts.helper
    if read_s is None or helper.read_s is None or helper.write_s is None:
        return _by_tokens(messages, facts, thresholds, count)
    division = _division(messages, thresholds)
    if division is None:
        return Plan(Strategy.A, facts.tokens, "nothing in this chat may be shortened")
    material = count(as_text(division.history, division.parts.material))
    left = max(facts.unread_tokens - material, 0) + thresholds.summary_tokens
    direct_s = facts.unread_tokens * read_s
    shortened_s = material * helper.read_s + thresholds.summary_tokens * helper.write_s + left * read_s
    if facts.fits and direct_s <= shortened_s:
        reason = (
            f"the first token is expected after {direct_s:.1f} s, and after {shortened_s:.1f} s if shortened"
        )
        return Plan(Strategy.A, facts.tokens, reason)
    return _shorten(facts.tokens, material, division, thresholds)


def _division(messages: Sequence[Message], thresholds: Thresholds) -> Division | None:
    return divide(messages, thresholds.a_max * 4, thresholds.min_material_chars)


def _shorten(size: int, material: int, division: Division, thresholds: Thresholds) -> Plan:
    b_max = thresholds.b_max
    if material <= b_max:
        return Plan(Strategy.B, size, f"up to STRATEGY_B_MAX = {b_max}: one pass", division)
    return Plan(Strategy.C, size, f"above STRATEGY_B_MAX = {b_max}: map-reduce", division)
