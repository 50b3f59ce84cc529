"""Prompts that come again word for word: answered from what was known, and like the first time."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server.domain.generation import Sampling
from server.engine.engine import Engine
from server.engine.grammar import grammar_of
from server.engine.llamacpp.library import Library
from server.engine.openings import Openings
from server.engine.prefix import tokens_of
from server.engine.spec import EngineSpec
from tests.engine.comparing import first_difference
from tests.engine.listening import ask, chat

QUESTION = chat("Name three colours of the rainbow.")


@pytest.fixture(scope="module")
def engine(embedded_model: Path) -> Iterator[Engine]:
    engine = Engine.load(Library(), EngineSpec(embedded_model, "CPU", 1024, slots=2))
    yield engine
    engine.close()


def row(value: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.full(4, value, np.float32)


def test_only_the_very_same_prompt_is_known() -> None:
    openings = Openings()
    openings.remember(tokens_of([1, 2, 3]), row(1))
    assert openings.recall(tokens_of([1, 2])) is None
    assert openings.recall(tokens_of([1, 2, 3, 4])) is None
    known = openings.recall(tokens_of([1, 2, 3]))
    assert known is not None
    assert known.tolist() == row(1).tolist()


def test_the_logits_are_a_copy() -> None:
    openings, logits = Openings(), row(1)
    openings.remember(tokens_of([1]), logits)
    logits[:] = 2
    known = openings.recall(tokens_of([1]))
    assert known is not None
    assert known.tolist() == row(1).tolist()


def test_the_one_used_longest_ago_is_forgotten() -> None:
    openings = Openings()
    for prompt in range(8):
        openings.remember(tokens_of([prompt]), row(prompt))
    assert openings.recall(tokens_of([0])) is not None
    openings.remember(tokens_of([8]), row(8))
    assert openings.recall(tokens_of([1])) is None
    assert openings.recall(tokens_of([0])) is not None


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"sampling": Sampling(temperature=0.9, seed=7)},
        {"sampling": Sampling(temperature=0, repeat_penalty=1.3)},
        {"grammar": grammar_of(json.loads('{"type": "object", "properties": {"a": {"type": "integer"}}}'))},
    ],
    ids=["greedy", "sampled", "penalised", "schema"],
)
def test_an_answer_to_a_known_prompt_is_the_one_of_the_first_time(
    engine: Engine, wishes: dict[str, object]
) -> None:
    first = ask(engine, QUESTION, 12, alternatives=8, **wishes).wait()
    read_before = engine.figures.read_tokens
    again = ask(engine, QUESTION, 12, alternatives=8, **wishes)
    usage = again.finished().usage
    assert usage.cached_tokens == usage.prompt_tokens
    assert engine.figures.read_tokens == read_before
    assert first_difference(first, again) is None


def test_one_token_of_a_known_prompt_takes_no_step(engine: Engine) -> None:
    first = ask(engine, QUESTION, 1).wait()
    steps = engine.figures.steps
    again = ask(engine, QUESTION, 1).wait()
    assert again.text == first.text
    assert engine.figures.steps == steps


def test_known_prompts_are_answered_side_by_side(engine: Engine) -> None:
    alone = ask(engine, QUESTION, 12, alternatives=8).wait()
    together = [ask(engine, QUESTION, 12, alternatives=8) for _ in range(4)]
    assert [first_difference(alone, answer) for answer in together] == [None] * 4


def test_a_known_prompt_whose_cells_are_gone_is_read_again(engine: Engine) -> None:
    first = ask(engine, QUESTION, 12, alternatives=8).wait()
    ask(engine, "one two three four five " * 202, 10).wait()
    read_before = engine.figures.read_tokens
    again = ask(engine, QUESTION, 12, alternatives=8).wait()
    assert engine.figures.read_tokens > read_before, "nothing was tested"
    assert first_difference(first, again) is None
