"""Every kind of memory that llama.cpp has, through the library and through the engine.

Sums of another order round differently, by up to 0.1 in the logits of these models. The questions
here are picked so that at every step of the answer the best token leads by ``MARGIN``, which no
rounding turns; then the answer's tokens are the same however the prompt came into the cache.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench.tiny_models import GENERATING, SLIDING_WINDOW_TOKENS, SPOKEN
from server.engine.engine import Engine
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import Context, ContextShape, DecodeResult, Logits
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model
from server.engine.spec import EngineSpec
from tests.engine.listening import ask

MARGIN = 0.25
ANSWER_TOKENS = 12
OPENING = "The harbour master wrote down every ship, its flag and its freight, in a book that nobody read. "


@dataclass(frozen=True)
class Question:
    """A prompt, and the only answer to it that greedy picking can give."""

    prompt: str
    answer: str

    @property
    def whole(self) -> str:
        return self.prompt + self.answer


class Oracle:
    """Answers one prompt at a time, each read anew, without the engine."""

    def __init__(self, model: Model) -> None:
        shape = ContextShape(
            context_tokens=1024,
            batch_tokens=512,
            sequences=1,
            outputs=1,
            sequence_outputs=1,
            threads=2,
            kv_type="f16",
            flash_attention="auto",
            on_gpu=False,
        )
        self.model = model
        self.context: Context = model.new_context(shape)

    def question(self, beginning: str) -> Question:
        """A question that starts with ``beginning`` and has an answer beyond doubt."""
        candidates = (f"{beginning}And what of number {number}? " for number in range(100))
        answers = ((prompt, self.sure_answer(prompt)) for prompt in candidates)
        return next(Question(prompt, answer) for prompt, answer in answers if answer is not None)

    def sure_answer(self, prompt: str) -> str | None:
        tokens = self.model.tokenize(prompt, add_special=True)
        self.context.cut(0, 0)
        picked: list[int] = []
        logits = self.read(tokens, 0)
        while len(picked) < ANSWER_TOKENS:
            second, best = np.sort(logits)[-2:]
            if best - second < MARGIN:
                return None
            picked.append(int(logits.argmax()))
            logits = self.read(picked[-1:], len(tokens) + len(picked) - 1)
        return b"".join(map(self.model.piece, picked)).decode()

    def logits_after(self, text: str) -> Logits:
        self.context.cut(0, 0)
        return self.read(self.model.tokenize(text, add_special=True), 0).copy()

    def read(self, tokens: list[int], position: int) -> Logits:
        batch = Batch(512)
        row = batch.add(tokens, position, 0, outputs=1)
        assert self.context.decode(batch) is DecodeResult.DONE
        return self.context.logits(row)


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module", params=GENERATING)
def model_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture: str = request.param
    return GENERATING[architecture](tmp_path_factory.mktemp("tiny") / f"{architecture}.gguf")


@pytest.fixture(scope="module")
def oracle(library: Library, model_file: Path) -> Iterator[Oracle]:
    model = library.load_model(model_file, "CPU", -1)
    made = Oracle(model)
    yield made
    made.context.close()
    model.close()


@pytest.fixture
def engine(library: Library, model_file: Path) -> Iterator[Engine]:
    """Small batches, so that prompts are read in several pieces and between the answers of others."""
    loaded = Engine.load(library, EngineSpec(model_file, "CPU", 2048, slots=4, batch_tokens=64))
    yield loaded
    loaded.close()


def answer(engine: Engine, prompt: str) -> str:
    listener = ask(engine, prompt, max_tokens=ANSWER_TOKENS)
    assert listener.finished().usage.generated_tokens == ANSWER_TOKENS
    return listener.text


def test_it_is_a_whole_model_of_a_few_bytes(oracle: Oracle, model_file: Path) -> None:
    header = read_header(model_file)
    assert header.architecture == model_file.stem
    assert header.vocabulary_size == oracle.model.vocabulary_size
    assert not header.pooling_type
    assert header.size_bytes < 2**20


def test_it_reads_any_text_and_knows_control_tokens(oracle: Oracle) -> None:
    text = "Olá, 世界! TH def f(x):\n\treturn x ** 2  # ½ 🌟"
    tokens = oracle.model.tokenize(text, add_special=True)
    assert b"".join(map(oracle.model.piece, tokens)).decode() == text
    [end] = oracle.model.tokenize("<|im_end|>", add_special=True)
    assert oracle.model.ends_generation(end)
    assert len(oracle.model.tokenize("<|im_end|>", add_special=True, parse_special=False)) > 1


def test_its_answers_vary_and_are_made_of_the_tokens_that_their_text_splits_into(oracle: Oracle) -> None:
    answers = [oracle.question(OPENING[20 * number :]).answer for number in range(4)]
    assert len(set(answers)) == len(answers)
    assert all(len(set(answer)) >= 3 and set(answer) <= set(SPOKEN) for answer in answers), answers
    assert all(len(oracle.model.tokenize(answer, add_special=True)) == ANSWER_TOKENS for answer in answers)


@pytest.mark.parametrize("place", [0, 70, 180])
def test_what_it_says_depends_on_every_part_of_the_prompt(oracle: Oracle, place: int) -> None:
    text = OPENING * 2
    changed = f"{text[:place]}in those days{text[place + 13 :]}"
    assert len(text) > 2 * SLIDING_WINDOW_TOKENS
    difference = np.abs(oracle.logits_after(text) - oracle.logits_after(changed)).max()
    assert difference > MARGIN


def test_models_with_a_state_are_known_as_recurrent(oracle: Oracle, model_file: Path) -> None:
    assert oracle.model.recurrent is (model_file.stem in {"mamba", "lfm2"})


def test_a_conversation_that_goes_on_is_answered_as_if_read_anew(oracle: Oracle, engine: Engine) -> None:
    first = oracle.question(OPENING)
    second = oracle.question(first.whole)
    third = oracle.question(second.whole)
    assert [answer(engine, turn.prompt) for turn in (first, second, third)] == [
        first.answer,
        second.answer,
        third.answer,
    ]


def test_a_conversation_that_goes_on_is_not_read_anew(oracle: Oracle, engine: Engine) -> None:
    first = oracle.question(OPENING)
    held_tokens = len(oracle.model.tokenize(first.whole, add_special=True)) - 1
    answer(engine, first.prompt)
    second = ask(engine, f"{first.whole}And then?", max_tokens=1)
    assert second.finished().usage.cached_tokens == held_tokens


def test_a_prompt_that_shares_half_of_another_is_answered_as_if_read_anew(
    oracle: Oracle, engine: Engine
) -> None:
    first = oracle.question(OPENING * 2)
    halves = oracle.question(OPENING)
    assert [answer(engine, question.prompt) for question in (first, halves, first)] == [
        first.answer,
        halves.answer,
        first.answer,
    ]


def test_a_prompt_asked_again_is_answered_as_if_read_anew(oracle: Oracle, engine: Engine) -> None:
    question = oracle.question(OPENING)
    assert [answer(engine, question.prompt) for _ in range(3)] == [question.answer] * 3


def test_four_at_once_are_answered_as_if_each_were_alone(oracle: Oracle, engine: Engine) -> None:
    first = oracle.question(OPENING)
    together = [
        first,
        oracle.question(first.whole),
        oracle.question(OPENING * 2),
        oracle.question("Another story. "),
    ]
    for _ in range(2):  # the second time upon what the first one left in the cache
        listeners = [ask(engine, question.prompt, max_tokens=ANSWER_TOKENS) for question in together]
        texts = [listener.wait().text for listener in listeners]
        assert texts == [question.answer for question in together]


def test_a_turn_asked_while_the_one_before_is_being_answered(oracle: Oracle, engine: Engine) -> None:
    first = oracle.question(OPENING)
    second = oracle.question(first.whole)
    running = ask(engine, first.prompt, max_tokens=100)
    assert running.begun.wait(60)
    assert answer(engine, second.prompt) == second.answer
    assert running.wait().text.startswith(first.answer)


def test_a_cancelled_prompt_leaves_nothing_behind(oracle: Oracle, engine: Engine) -> None:
    question = oracle.question(OPENING * 2)
    for _ in range(5):
        given_up = ask(engine, OPENING * 8, max_tokens=400)
        assert given_up.job is not None
        engine.cancel(given_up.job)
        given_up.failed()
        assert answer(engine, question.prompt) == question.answer


def test_a_full_cache_costs_no_answer(oracle: Oracle, library: Library, model_file: Path) -> None:
    crowded = Engine.load(library, EngineSpec(model_file, "CPU", 512, slots=4, batch_tokens=64))
    questions = [oracle.question(f"{number} {OPENING * 2}") for number in range(4)]
    listeners = [ask(crowded, question.prompt, max_tokens=ANSWER_TOKENS) for question in questions]
    texts = [listener.wait().text for listener in listeners]
    crowded.close()
    assert texts == [question.answer for question in questions]


@pytest.mark.parametrize("host_cache_bytes", [0, 10_000_000])
def test_a_long_session_of_many_conversations_is_answered_as_if_each_were_read_anew(
    oracle: Oracle, library: Library, model_file: Path, host_cache_bytes: int
) -> None:
    # What is kept is evicted, cut back and written over again and again: a sliding window's cells too.
    beginnings = [OPENING * 2, OPENING * 3, f"Then. {OPENING * 2}", "Another story. "]
    questions = [oracle.question(beginning) for beginning in beginnings]
    questions += [oracle.question(question.whole) for question in questions]
    questions += [oracle.question(OPENING[:50]), oracle.question((OPENING * 2)[:150])]
    order = random.Random(1).choices(questions, k=40)  # noqa: S311
    spec = EngineSpec(model_file, "CPU", 1024, slots=1, batch_tokens=64, host_cache_bytes=host_cache_bytes)
    small = Engine.load(library, spec)
    texts = [answer(small, question.prompt) for question in order]
    small.close()
    assert texts == [question.answer for question in order]
