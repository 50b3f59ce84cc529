"""The soak asks for all there is, and for the same with the same seed."""

import random

from bench.soak.badness import draw_bad_plan
from bench.soak.drawing import ASKING, LONGEST_PROMPT_TOKENS, Models, draw_plan, prompt_words
from bench.soak.plans import Key, Plan

MODELS = Models(("m", "n"), frozenset("m"), ("e",))


def seeded() -> random.Random:
    return random.Random(7)  # noqa: S311


def drawn(dice: random.Random) -> list[Plan]:
    return [draw_plan(dice, MODELS) for _ in range(400)]


def test_requests_are_of_all_kinds_and_the_same_for_the_same_seed() -> None:
    plans = drawn(seeded())
    assert plans == drawn(seeded())
    assert len({plan.path for plan in plans}) == len(ASKING) + 3
    assert {plan.stream for plan in plans} == {True, False}
    assert {plan.manner for plan in plans} == {
        "answered",
        "hung up at once",
        "hung up while the prompt was read",
        "hung up in mid-stream",
    }
    assert {plan.path for plan in plans if plan.formed} >= {"/api/chat", "/api/generate", "/v1/responses"}
    assert {plan.path for plan in plans if plan.tool} == {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
    }
    assert all(plan.body["model"] == "m" for plan in plans if plan.tool)
    assert all(plan.stream for plan in plans if plan.hang_up_after_lines)
    chats = [plan.body["messages"] for plan in plans if "messages" in plan.body]
    assert all(messages[-1]["role"] == "user" for messages in chats)


def test_prompts_are_mostly_short_and_many_begin_alike() -> None:
    dice = seeded()
    prompts = [prompt_words(dice) for _ in range(400)]
    lengths = sorted(map(len, prompts))
    assert lengths[0] == 1
    assert lengths[200] < 150
    assert 2000 < lengths[-1] <= LONGEST_PROMPT_TOKENS
    beginnings = [tuple(prompt[:8]) for prompt in prompts if len(prompt) > 20]
    assert len(beginnings) - len(set(beginnings)) > len(beginnings) // 4


def test_bad_input_is_what_can_be_judged_here() -> None:
    dice = seeded()
    with_keys = [draw_bad_plan(dice, "m", keys=True, body_bytes=9) for _ in range(400)]
    without = [draw_bad_plan(dice, "m", keys=False, body_bytes=None) for _ in range(400)]
    assert all(plan.expected.status >= 400 and plan.expected.outcome for plan in with_keys)
    more = {plan.kind for plan in with_keys} - {plan.kind for plan in without}
    assert more == {"no key", "wrong key", "no right", "too large a body"}
    assert {plan.key for plan in without} == {Key.USE}
