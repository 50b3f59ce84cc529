import pytest

from server.domain.chat import Message, ToolCall
from server.routing.decide import Strategy, Thresholds, decide, estimate_tokens

LIMITS = Thresholds(a_max=2000, b_max=8000, min_material_chars=1000)


def one(chars: int) -> list[Message]:
    return [Message("user", "x" * chars)]


def talk(chars: int) -> list[Message]:
    """A conversation of so many characters, most of them an old answer."""
    return [Message("user", "task"), Message("assistant", "x" * (chars - 12)), Message("user", "question")]


def system(chars: int) -> list[Message]:
    return [Message("system", "x" * (chars - 8)), Message("user", "question")]


@pytest.mark.parametrize(
    ("messages", "strategy", "tokens"),
    [
        ([], Strategy.A, 0),
        (one(0), Strategy.A, 0),
        (one(3), Strategy.A, 0),
        (one(4), Strategy.A, 1),
        (one(7996), Strategy.A, 1999),
        (one(7999), Strategy.A, 1999),
        (one(8000), Strategy.B, 2000),
        (one(32_000), Strategy.B, 8000),
        (one(32_003), Strategy.B, 8000),
        (one(32_004), Strategy.C, 8001),
        (one(1_000_000), Strategy.C, 250_000),
        (talk(7999), Strategy.A, 1999),
        (talk(8000), Strategy.B, 2000),
        (talk(32_000), Strategy.B, 8000),
        (talk(32_004), Strategy.C, 8001),
        (system(7999), Strategy.A, 1999),
        (system(8000), Strategy.A, 2000),
        (system(40_000), Strategy.A, 10_000),
        ([Message("assistant", "x" * 40_000)], Strategy.A, 10_000),
        ([*one(40), Message("assistant", "x" * 40_000)], Strategy.A, 10_010),
        ([Message("system", "Be brief."), *one(7996)], Strategy.B, 2001),
    ],
)
def test_strategies(messages: list[Message], strategy: Strategy, tokens: int) -> None:
    plan = decide(messages, LIMITS)
    assert (plan.strategy, plan.estimated_tokens) == (strategy, tokens)
    assert (plan.division is None) == (strategy is Strategy.A)
    if plan.division is not None:
        assert plan.division.material_chars >= LIMITS.min_material_chars


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (one(4), "1 tokens are below STRATEGY_A_MAX = 2000"),
        (system(8000), "nothing in this chat may be shortened"),
        (one(8000), "up to STRATEGY_B_MAX = 8000: one pass"),
        (one(80_000), "above STRATEGY_B_MAX = 8000: map-reduce"),
    ],
)
def test_reasons(messages: list[Message], reason: str) -> None:
    assert decide(messages, LIMITS).reason == reason


@pytest.mark.parametrize(
    ("a_max", "b_max", "strategy"),
    [
        (0, 0, Strategy.C),
        (0, 2500, Strategy.B),
        (2500, 2500, Strategy.B),
        (2501, 2501, Strategy.A),
        (2499, 2499, Strategy.C),
        (1, 1_000_000, Strategy.B),
    ],
)
def test_thresholds_at_their_ends(a_max: int, b_max: int, strategy: Strategy) -> None:
    assert decide(one(10_000), Thresholds(a_max, b_max, 1000)).strategy is strategy


def test_nothing_below_the_least_material_is_shortened() -> None:
    assert decide(one(10_000), Thresholds(2000, 8000, 10_000)).strategy is Strategy.A


def test_what_is_counted() -> None:
    messages = [
        Message("system", "x" * 8),
        Message("assistant", "x" * 8, thinking="not sent again", tool_calls=(ToolCall("look", {"a": 1}),)),
        Message("tool", "é" * 8),
    ]
    assert estimate_tokens(messages) == (8 + 8 + len("look") + len("{'a': 1}") + 8) // 4
