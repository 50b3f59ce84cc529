"""Likelihood: how probable the recorded next answer is, given the full prompt and given less."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from bench.fidelity.methods import Method, Prompts, at_equal_size, one_step, shortened
from bench.fidelity.reader import Reader, open_model
from bench.fidelity.report import Cell, Found, Table
from bench.fidelity.sessions import Request, with_answers
from bench.fidelity.stage import Stage
from bench.machine import usable_cores
from bench.prompts import Prompter
from server.domain.chat import Message

SIZE = 0.45
MOST_TOKENS, QUICK_TOKENS = 16_000, 8_500
MOST_REQUESTS, QUICK_REQUESTS = 6, 2
MOST_ANSWER_TOKENS = 256
LEAST_SAVED = 0.9
"""Requests of which less than a tenth can go tell nothing."""


@dataclass(frozen=True)
class Case:
    """A request whose answer is known, and what each method makes of it."""

    name: str
    request: Request
    prompts: Prompts
    answer: Message
    tokens: int
    share: float


@dataclass(frozen=True)
class Scored:
    """Mean log probability per token of the answer, by method."""

    case: Case
    means: dict[Method, float]
    answer_tokens: int


def measure(stage: Stage) -> Found:
    """Score the answers of as many requests as the run has time for."""
    limit = QUICK_REQUESTS if stage.quick else MOST_REQUESTS
    cases = list(_cases(stage))
    # A quick run takes neighbours, which have most to read in common.
    cases = cases[:limit] if stage.quick else _spread(cases, limit)
    scored = _scored(cases, stage)
    rows: list[tuple[Cell, ...]] = [
        (
            one.case.name,
            one.case.tokens,
            one.case.share,
            one.answer_tokens,
            *(one.means[method] for method in Method),
        )
        for one in scored
    ]
    means = {method: _mean_over_tokens(scored, method) for method in Method}
    answers = sum(one.answer_tokens for one in scored)
    rows.append(("all", "", "", answers, *(means[method] for method in Method)))
    perplexities = (math.exp(-means[method]) for method in Method)
    rows.append(("perplexity", "", "", "", *perplexities))
    note = (
        f"Natural logarithms; the answers' first {MOST_ANSWER_TOKENS} tokens, calls included, as the model's "
        f"template writes them. One step to {SIZE:.0%} of the size, or as near as protected parts allow. "
        "Nobody's recorded answer is this model's own: only the differences count."
    )
    columns = ("request", "tokens", "size left", "answer's tokens", *Method)
    table = Table("Log probability per token of the recorded answer", columns, tuple(rows), note)
    return Found((table,), (), {"log_probability": means})


def _cases(stage: Stage) -> Iterator[Case]:
    """Recorded requests that can be shortened; the generated ones' answers are nobody's, and stay out."""
    most = QUICK_TOKENS if stage.quick else MOST_TOKENS
    for session in stage.recorded:
        for request, answer in with_answers(session):
            tokens = stage.scale.tokens(request)
            if tokens > most:
                break
            ours = shortened(request, one_step(tokens, SIZE), stage.scale)
            if ours.tokens <= LEAST_SAVED * tokens:
                name = f"{session.name}, {len(request.messages)} messages"
                prompts = at_equal_size(request, ours, stage.scale, name)
                yield Case(name, request, prompts, answer, tokens, ours.tokens / tokens)


def _spread(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many, from all over the sessions."""
    if len(cases) <= most:
        return list(cases)
    return [cases[round(number * (len(cases) - 1) / (most - 1))] for number in range(most)]


def _scored(cases: Sequence[Case], stage: Stage) -> list[Scored]:
    if not cases:
        return []
    found: list[dict[Method, list[float]]] = [{} for _ in cases]
    longest = max(case.tokens for case in cases) + 4 * MOST_ANSWER_TOKENS
    with (
        closing(open_model(stage.model)) as model,
        closing(Reader(model, longest, usable_cores())) as reader,
    ):
        # Method by method, so that what neighbouring requests have in common is read once.
        for method in Method:
            for case, scores in zip(cases, found, strict=True):
                prompt, answer = _tokens(case, method, stage.prompter, reader)
                scores[method] = reader.scores(prompt, answer)
            stage.say(f"likelihood, {method}")
    return [
        Scored(
            case,
            {method: statistics.fmean(values) for method, values in scores.items()},
            len(scores[Method.OURS]),
        )
        for case, scores in zip(cases, found, strict=True)
    ]


def _tokens(case: Case, method: Method, prompter: Prompter, reader: Reader) -> tuple[list[int], list[int]]:
    prompt = prompter.chat(case.prompts[method], case.request.tools)
    return reader.tokens(prompt), reader.tokens(_written(case, prompter))[:MOST_ANSWER_TOKENS]


def _written(case: Case, prompter: Prompter) -> str:
    """The answer as the template writes it: what it adds behind the full prompt."""
    before = prompter.chat(case.request.messages, case.request.tools)
    after = prompter.chat((*case.request.messages, case.answer), case.request.tools)
    return after[_common_characters(before, after) :]


def _common_characters(one: str, other: str) -> int:
    return next(
        (place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right),
        min(len(one), len(other)),
    )


def _mean_over_tokens(scored: Sequence[Scored], method: Method) -> float:
    tokens = sum(one.answer_tokens for one in scored)
    return sum(one.means[method] * one.answer_tokens for one in scored) / tokens if tokens else math.nan
