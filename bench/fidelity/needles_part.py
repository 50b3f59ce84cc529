"""Needles: can a value from anywhere in a session still be found, and does the model find it?"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count

from bench.fidelity.generated import MOST_CHARS, generated
from bench.fidelity.methods import Method, Prompts, at_equal_size, one_step, shortened
from bench.fidelity.needles import DEPTHS, Needle, asked, can_hold_needles, needles, planted
from bench.fidelity.reader import Reader, open_model
from bench.fidelity.recall import Tally
from bench.fidelity.report import Found, Table
from bench.fidelity.sessions import Request
from bench.fidelity.stage import Stage
from bench.fidelity.texts import spoken
from bench.machine import usable_cores
from bench.prompts import repeatable

SIZE = 0.45
SEARCHED_TOKENS = 24_000
ANSWERED_TOKENS, QUICK_ANSWERED_TOKENS = 8_000, 3_000
QUICK_DEPTHS = (0, 50)
MOST_ANSWER_TOKENS = 24
ROOM_TOKENS = 2_000

Tallies = dict[tuple[str, str, Method], Tally]
"""By form, depth and method."""

WHEN = {"then": "shortened when it is asked", "before": "shortened before it is asked"}


def measure(stage: Stage) -> Found:
    """Found by code in longer sessions, and answered by the model in shorter ones."""
    found = {when: _searched(stage, when) for when in WHEN}
    answered, said = _answered(stage)
    tables = [
        _table(f"Needles found, {title}", found[when], "Whether the lines stand in the prompt.")
        for when, title in WHEN.items()
    ]
    note = f"Greedy, at most {MOST_ANSWER_TOKENS} tokens; right if every value was said; {WHEN['then']}."
    tables.append(_table(f"Needles answered by {stage.model.stem}", answered, note))
    figures = {"found": _by_depth(found["then"]), "answered": _by_method(answered), "said": said}
    return Found(tuple(tables), (), figures)


def _searched(stage: Stage, when: str) -> Tallies:
    tallies: Tallies = {}
    for seed in range(1, 2 if stage.quick else 5):
        session, hidden = _session(stage, seed, SEARCHED_TOKENS, DEPTHS)
        for needle, prompts in _prompts(stage, session, hidden, when):
            for method, messages in prompts.items():
                _add(tallies, needle, method, found=needle.stands_in(spoken(messages)))
    stage.say(f"needles searched, {WHEN[when]}")
    return tallies


def _answered(stage: Stage) -> tuple[Tallies, list[dict[str, str]]]:
    """The tallies, and what the model said to each question."""
    tokens = QUICK_ANSWERED_TOKENS if stage.quick else ANSWERED_TOKENS
    session, hidden = _session(stage, 11, tokens, QUICK_DEPTHS if stage.quick else DEPTHS)
    every = [(needle, prompts) for needle, prompts in _prompts(stage, session, hidden, "then")]
    tallies: Tallies = {}
    said: list[dict[str, str]] = []
    longest = stage.scale.tokens(session) + ROOM_TOKENS
    with (
        closing(open_model(stage.model)) as model,
        closing(Reader(model, longest, usable_cores())) as reader,
    ):
        # Method by method: the prompts of one begin alike, so that only the question is new.
        for method in Method:
            for needle, prompts in every:
                answer = reader.answer(
                    reader.tokens(stage.prompter.chat(prompts[method])), MOST_ANSWER_TOKENS
                )
                _add(tallies, needle, method, found=needle.is_answered_by(answer))
                said.append({"method": method, "question": needle.question, "answer": answer})
            stage.say(f"needles answered, {method}")
    return tallies, said


def _session(
    stage: Stage, seed: int, tokens: int, depths: Sequence[int]
) -> tuple[Request, tuple[Needle, ...]]:
    random = repeatable(f"needles {seed}")
    hidden = tuple(needles(random, depths))
    made = (
        generated(number, tokens, stage.scale.count, edits=False, most_chars=min(tokens, MOST_CHARS))
        for number in count(1000 * seed)
    )
    session = next(filter(can_hold_needles, made))
    return planted(session, [line for needle in hidden for line in needle.hidden], random), hidden


def _prompts(
    stage: Stage, session: Request, hidden: Sequence[Needle], when: str
) -> Iterator[tuple[Needle, Prompts]]:
    """Each question behind the session, in each method's form.

    Shortened before: the step was made at the session's last request, when nobody knew the question.
    """
    for needle in hidden:
        request = asked(session, needle.question)
        tokens = stage.scale.tokens(request if when == "then" else session)
        ours = shortened(request, one_step(tokens, SIZE), stage.scale)
        yield needle, at_equal_size(request, ours, stage.scale, needle.form)


def _add(tallies: Tallies, needle: Needle, method: Method, *, found: bool) -> None:
    key = (needle.form, "" if needle.depth is None else f"{needle.depth}%", method)
    tallies[key] = tallies.get(key, Tally()) + Tally(int(found), 1)


def _table(title: str, tallies: Tallies, note: str) -> Table:
    rows = [
        (form, depth, *(_shown(tallies[form, depth, method]) for method in Method))
        for form, depth in dict.fromkeys((form, depth) for form, depth, _ in tallies)
    ]
    totals = _totals(tallies)
    rows.append(("all", "", *(_shown(totals[method]) for method in Method)))
    return Table(title, ("needle", "depth", *Method), tuple(rows), note)


def _totals(tallies: Tallies) -> dict[Method, Tally]:
    return {
        method: sum((tally for key, tally in tallies.items() if key[2] is method), Tally())
        for method in Method
    }


def _shown(tally: Tally) -> str:
    return f"{tally.kept} of {tally.all}"


def _by_method(tallies: Tallies) -> Mapping[str, float]:
    return {method: tally.share for method, tally in _totals(tallies).items()}


def _by_depth(tallies: Tallies) -> Mapping[str, list[float]]:
    return {
        method: [
            sum((t for key, t in tallies.items() if key[1:] == (f"{depth}%", method)), Tally()).share
            for depth in DEPTHS
        ]
        for method in Method
    }
