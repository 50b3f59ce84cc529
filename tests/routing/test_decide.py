import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from server.config import ModelSettings
from server.domain.chat import Message, Policy, ToolCall
from server.engine.pace import Speed
from server.routing.decide import Facts, Plan, Strategy, Thresholds, decide, estimate_tokens

PROJECT = Path(__file__).resolve().parents[2]
LIMITS = Thresholds(a_max=2000, b_max=8000, min_material_chars=1000)
WINDOW = 32_768
UNEQUAL_CARDS = (Speed(read_s=1 / 1200, write_s=1 / 45), Speed(read_s=1 / 300, write_s=1 / 25))
EQUAL_CARDS = (Speed(read_s=1 / 300, write_s=1 / 45), Speed(read_s=1 / 3000, write_s=1 / 200))


def by_chars(messages: list[Message], thresholds: Thresholds = LIMITS) -> Plan:
    facts = Facts(tokens=1, held_tokens=0, window_tokens=WINDOW, agent=None)
    return decide(messages, facts, Policy.AUTO, replace(thresholds, by_chars=True), len)


def by_tokens(
    messages: list[Message],
    *,
    held: int = 0,
    window: int = WINDOW,
    agent: str | None = None,
    policy: Policy = Policy.AUTO,
    speeds: tuple[Speed, Speed] = (Speed(), Speed()),
) -> Plan:
    """A token is four characters, and the template adds 40. ``speeds`` are generator's and helper's."""
    facts = Facts(estimate_tokens(messages) + 40, held, window, agent, *speeds)
    return decide(messages, facts, policy, LIMITS, lambda text: len(text) // 4)


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
    plan = by_chars(messages)
    assert (plan.strategy, plan.tokens) == (strategy, tokens)
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
    assert by_chars(messages).reason == reason


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
    assert by_chars(one(10_000), Thresholds(a_max, b_max, 1000)).strategy is strategy


def test_nothing_below_the_least_material_is_shortened() -> None:
    assert by_chars(one(10_000), Thresholds(2000, 8000, 10_000)).strategy is Strategy.A


def test_what_is_counted() -> None:
    messages = [
        Message("system", "x" * 8),
        Message("assistant", "x" * 8, thinking="not sent again", tool_calls=(ToolCall("look", {"a": 1}),)),
        Message("tool", "é" * 8),
    ]
    assert estimate_tokens(messages) == (8 + 8 + len("look") + len("{'a': 1}") + 8) // 4


@pytest.mark.parametrize(
    ("messages", "held", "strategy", "reason"),
    [
        (one(4000), 0, Strategy.A, "1040 tokens are below STRATEGY_A_MAX = 2000"),
        (talk(40_000), 9000, Strategy.A, "1040 tokens are not in the cache yet, below STRATEGY_A_MAX = 2000"),
        (system(40_000), 0, Strategy.A, "nothing in this chat may be shortened"),
        (
            [*system(8000), Message("assistant", "x" * 6000), Message("user", "And?")],
            0,
            Strategy.A,
            "1504 tokens may be shortened, below STRATEGY_A_MAX = 2000",
        ),
        (talk(14_000), 0, Strategy.B, "up to STRATEGY_B_MAX = 8000: one pass"),
        (talk(44_000), 0, Strategy.C, "above STRATEGY_B_MAX = 8000: map-reduce"),
        (talk(44_000), 4000, Strategy.B, "up to STRATEGY_B_MAX = 8000: one pass"),
    ],
)
def test_thresholds_on_what_is_not_read_yet(
    messages: list[Message], held: int, strategy: Strategy, reason: str
) -> None:
    plan = by_tokens(messages, held=held)
    assert (plan.strategy, plan.reason) == (strategy, reason)
    assert plan.tokens == estimate_tokens(messages) + 40
    assert not plan.squeeze


def test_what_does_not_fit_is_shortened_though_it_was_read() -> None:
    plan = by_tokens(talk(14_000), held=3500, window=3600)
    assert plan.strategy is Strategy.B


def test_a_long_chat_that_grew_turn_by_turn_stays_direct() -> None:
    chat = [Message("user", "task")]
    for turn in range(40):
        read = estimate_tokens(chat) + 40 if turn else 0
        assert by_tokens(chat, held=read, window=100_000).strategy is Strategy.A
        chat += [Message("assistant", "x" * 2000), Message("user", "y" * 1000)]
    assert estimate_tokens(chat) > LIMITS.b_max * 3


@pytest.mark.parametrize("policy", [Policy.AUTO, Policy.AGENT])
def test_an_agent_is_untouched_until_its_window_fills(policy: Policy) -> None:
    agent = "the request brings tools" if policy is Policy.AUTO else None
    why = agent or "the policy is agent"
    plan = by_tokens(talk(98_000), agent=agent, policy=policy)
    assert (plan.strategy, plan.squeeze) == (Strategy.A, False)
    assert plan.reason == f"{why}: 24540 tokens are within 75% of the window of 32768"
    fuller = by_tokens(talk(98_200), agent=agent, policy=policy)
    assert (fuller.strategy, fuller.squeeze) == (Strategy.A, True)
    assert fuller.reason == (
        f"{why}: 24590 tokens are above 75% of the window of 32768, so old tool results give way"
    )


def test_other_policies_do_not_ask_whether_it_is_an_agent() -> None:
    chat = talk(44_000)
    assert by_tokens(chat, agent="it is one", policy=Policy.THRESHOLDS).strategy is Strategy.C
    direct = by_tokens(chat, agent="it is one", policy=Policy.DIRECT, window=100)
    assert (direct.strategy, direct.squeeze, direct.reason) == (Strategy.A, False, "the policy is direct")


def test_the_settings_know_all_policies() -> None:
    assert set(get_args(ModelSettings.model_fields["policy"].annotation)) == set(Policy)


CASES = [
    by_tokens(talk(44_000), policy=Policy.DIRECT),
    by_tokens(talk(44_000), agent="the request brings tools"),
    by_tokens(talk(144_000), agent="the request brings tools"),
    by_tokens(talk(44_000), policy=Policy.AGENT),
    by_tokens(talk(144_000), policy=Policy.AGENT),
    by_tokens(talk(4000), policy=Policy.THRESHOLDS),
    by_tokens(talk(40_000), held=9000, policy=Policy.THRESHOLDS),
    by_tokens(system(40_000), policy=Policy.THRESHOLDS),
    by_tokens([*system(8000), Message("assistant", "x" * 6000), Message("user", "And?")]),
    by_tokens(talk(14_000), policy=Policy.THRESHOLDS),
    by_tokens(talk(44_000), policy=Policy.THRESHOLDS),
    by_tokens(talk(14_000), policy=Policy.ADAPTIVE, speeds=UNEQUAL_CARDS),
    by_tokens(talk(14_000), policy=Policy.ADAPTIVE, speeds=EQUAL_CARDS),
    by_tokens(talk(14_000), policy=Policy.ONE_PASS),
    by_tokens(talk(14_000), policy=Policy.MAP_REDUCE),
    by_tokens(system(40_000), policy=Policy.MAP_REDUCE),
]


def test_the_page_has_every_branch() -> None:
    page = (PROJECT / "docs" / "router.md").read_text()
    table = page.partition("<!-- branches -->")[2].partition("<!-- /branches -->")[0]
    told = [tuple(cell.strip() for cell in line.split("|")[3:5]) for line in table.splitlines()[3:]]
    done = [
        (f"{plan.strategy}, shortened" if plan.squeeze else plan.strategy, re.sub(r"\d+%?", "N", plan.reason))
        for plan in CASES
    ]
    assert told == done


def test_adaptive_goes_by_the_clock() -> None:
    direct = by_tokens(talk(14_000), policy=Policy.ADAPTIVE, speeds=UNEQUAL_CARDS)
    # 3,540 tokens at 1,200 a second; 3,503 at 300, 170 written at 25, and 207 read at 1,200.
    assert direct.reason == "the first token is expected after 3.0 s, and after 18.6 s if shortened"
    assert by_tokens(talk(14_000), policy=Policy.ADAPTIVE, speeds=EQUAL_CARDS).strategy is Strategy.B
    cached = by_tokens(talk(14_000), held=3400, policy=Policy.ADAPTIVE, speeds=EQUAL_CARDS)
    assert cached.strategy is Strategy.A
    too_long = by_tokens(talk(14_000), window=3000, policy=Policy.ADAPTIVE, speeds=UNEQUAL_CARDS)
    assert too_long.strategy is Strategy.B


def test_adaptive_keeps_to_the_thresholds_until_it_knows() -> None:
    for speeds in ((Speed(), UNEQUAL_CARDS[1]), (UNEQUAL_CARDS[0], Speed()), (Speed(), Speed())):
        plan = by_tokens(talk(14_000), policy=Policy.ADAPTIVE, speeds=speeds)
        assert plan == by_tokens(talk(14_000), policy=Policy.THRESHOLDS)


def test_adaptive_leaves_agents_alone() -> None:
    plan = by_tokens(talk(14_000), agent="it is one", policy=Policy.ADAPTIVE, speeds=EQUAL_CARDS)
    assert (plan.strategy, plan.squeeze) == (Strategy.A, False)
