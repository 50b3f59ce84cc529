"""Drafts, batches and caches change the speed, never the text. On the real embedded model."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.domain.generation import Sampling
from server.engine import runner
from server.engine.engine import Engine
from server.engine.llamacpp.library import Library
from server.engine.spec import EngineSpec
from tests.api.asking import eventually
from tests.engine.comparing import agree_throughout, first_difference, scores_of
from tests.engine.listening import Listener, ask, chat

THINGS = ["apple", "bridge", "candle", "dragon", "engine", "forest", "garden", "hammer", "island", "jacket"]
REPEATING = "The cat sat on the mat.\n" * 8
PROMPTS = [
    # Half of them make the model repeat itself or its prompt, which is what drafts live on.
    *(
        chat(f"Repeat this line three times: the {thing} is number {place}")
        for place, thing in enumerate(THINGS)
    ),
    *(f"{thing} {other}, " * 6 for thing, other in zip(THINGS, reversed(THINGS), strict=True)),
    *(", ".join(str(number) for number in range(start, start + 12)) + "," for start in range(1, 100, 10)),
    *(chat(f"Tell me something about a {thing}.") for thing in THINGS),
    *(f"def {thing}(a, b):\n    return a + b\n\ndef {thing}_twice(a, b):\n    return" for thing in THINGS),
]
A_THIRD = PROMPTS[::3]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def plain(library: Library, embedded_model: Path) -> Iterator[Engine]:
    loaded = Engine.load(library, EngineSpec(embedded_model, "CPU", 2048, draft_tokens=0))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def drafting(library: Library, embedded_model: Path) -> Iterator[Engine]:
    """It guesses whenever it can, whether that pays on this machine or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "best_length", lambda most, *_: most if most > 1 else 0)
        loaded = Engine.load(library, EngineSpec(embedded_model, "CPU", 2048, draft_tokens=24))
        yield loaded
        loaded.close()


@pytest.fixture(scope="module")
def alone(plain: Engine) -> list[Listener]:
    """What is said to a third of the prompts, one by one and without drafts."""
    return one_by_one(plain, A_THIRD)


def one_by_one(engine: Engine, prompts: list[str], max_tokens: int = 12) -> list[Listener]:
    return [ask(engine, prompt, max_tokens, alternatives=8).wait() for prompt in prompts]


def test_drafts_change_no_greedy_text(alone: list[Listener], drafting: Engine) -> None:
    check_alike(alone, one_by_one(drafting, A_THIRD), drafting)


@pytest.mark.slow
def test_drafts_change_no_greedy_text_of_all_prompts(plain: Engine, drafting: Engine) -> None:
    assert len(PROMPTS) == 50
    check_alike(one_by_one(plain, PROMPTS), one_by_one(drafting, PROMPTS), drafting)


def check_alike(without: list[Listener], with_drafts: list[Listener], drafting: Engine) -> None:
    assert drafting.figures.accepted_tokens > 0.6 * len(without), "nothing was tested"
    assert drafting.figures.guessed_tokens > drafting.figures.accepted_tokens, "no wrong guess was tested"
    pairs = list(zip(without, with_drafts, strict=True))
    assert [first_difference(*pair) for pair in pairs] == [None] * len(pairs)
    assert sum(agree_throughout(*pair) for pair in pairs) >= 0.9 * len(pairs), "ties are rare"


def test_company_changes_no_greedy_text(alone: list[Listener], drafting: Engine) -> None:
    together = [ask(drafting, prompt, 12, alternatives=8) for prompt in A_THIRD]
    pairs = [(one, other.wait()) for one, other in zip(alone, together, strict=True)]
    assert [first_difference(*pair) for pair in pairs] == [None] * len(pairs)


def test_drafts_leave_a_seeded_sample_as_it_is(plain: Engine, drafting: Engine) -> None:
    """The same random numbers are drawn for the same tokens, so a seed gives the same text."""
    sampling = Sampling(temperature=0.2, top_k=5, seed=11)
    accepted = drafting.figures.accepted_tokens
    texts = {ask(engine, REPEATING, 40, sampling=sampling).wait().text for engine in (plain, drafting)}
    assert drafting.figures.accepted_tokens > accepted
    assert len(texts) == 1


def test_a_draft_does_not_run_over_a_limit(drafting: Engine) -> None:
    figures = drafting.figures
    guessed, accepted = figures.guessed_tokens, figures.accepted_tokens
    ends = [ask(drafting, REPEATING, limit).finished() for limit in range(1, 12)]
    assert [len(end.tokens) for end in ends] == [*range(1, 12)]
    assert figures.accepted_tokens > accepted
    # Each answer knows its part. The engine counts the last step when it has told of the end.
    own_guessed, own_accepted = (
        sum(getattr(end.usage, name) for end in ends) for name in ("guessed_tokens", "accepted_tokens")
    )
    assert eventually(lambda: figures.guessed_tokens - guessed == own_guessed)
    assert eventually(lambda: figures.accepted_tokens - accepted == own_accepted)


def test_a_draft_does_not_run_over_a_stop(plain: Engine, drafting: Engine) -> None:
    accepted = drafting.figures.accepted_tokens
    texts = {
        ask(engine, REPEATING, 60, stop=("cat sat on the mat.\nThe cat sat",)).wait().text
        for engine in (plain, drafting)
    }
    assert texts == {"The "}
    assert drafting.figures.accepted_tokens > accepted


def test_what_a_rejected_guess_left_is_not_in_the_next_turns_prefix(drafting: Engine) -> None:
    prompt = "red green blue red green blue red green yellow red green"
    first = ask(drafting, prompt, 8)
    usage = first.finished().usage
    next_turn = ask(drafting, prompt + first.text + " and then", 4).finished().usage
    assert next_turn.cached_tokens <= usage.prompt_tokens + usage.generated_tokens


def test_scores_are_log_probabilities_of_the_text(plain: Engine) -> None:
    answer = ask(plain, "1, 2, 3, 4, 5, 6,", 6, alternatives=5).wait()
    scores = scores_of(answer)
    assert b"".join(score.piece for score in scores).decode() == answer.text
    for score in scores:
        assert score.logprob <= 0
        assert len(score.alternatives) == 5
        assert score.alternatives[0].token == score.token, "greedy takes the likeliest"
        assert [rival.logprob for rival in score.alternatives] == sorted(
            (rival.logprob for rival in score.alternatives), reverse=True
        )
        assert sum(math.exp(rival.logprob) for rival in score.alternatives) <= 1.0001
    assert ask(plain, "1, 2, 3,", 2).wait().scores == []
    assert ask(plain, "1, 2, 3,", 2, alternatives=0).wait().scores[0].alternatives == ()


def test_a_bias_forbids_and_forces_tokens(plain: Engine) -> None:
    usual = ask(plain, "1, 2, 3, 4, 5, 6,", 1).finished().tokens[0]
    forbidden = Sampling(temperature=0, logit_bias=((usual, float("-inf")),))
    assert ask(plain, "1, 2, 3, 4, 5, 6,", 1, sampling=forbidden).finished().tokens[0] != usual
    wanted = plain.model.tokenize("zebra", add_special=False)[0]
    forced = Sampling(temperature=0, logit_bias=((wanted, 100.0),))
    assert ask(plain, "1, 2, 3, 4, 5, 6,", 3, sampling=forced).finished().tokens == (wanted,) * 3
