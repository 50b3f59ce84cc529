"""Recall: what is left of a session's facts at equal size, and what must be left in any case."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.fidelity.keeping import keeping
from bench.fidelity.methods import BASELINES, Method, at_equal_size, one_step, shortened
from bench.fidelity.recall import (
    AGES,
    FactClass,
    Tallies,
    by_class,
    facts_of,
    losses,
    mean,
    summed,
    tallied,
)
from bench.fidelity.report import Cell, Found, Table, Verdict, percent
from bench.fidelity.sessions import Request, Session
from bench.fidelity.stage import Stage
from bench.fidelity.texts import spoken

SIZE = 0.45
REACHED = SIZE + 0.05
"""Up to this share a prompt counts as one of SIZE: results go as a whole, so that a step seldom hits it."""

LEAST_TOKENS = 12_000
"""Shorter requests are mostly system prompt, tools and last turns, which stay."""

EVERY = 3
MOST_LOSSES = 12
BAR_RECALL = 0.9

ByMethod = Mapping[Method, Tallies]


def measure(stage: Stage) -> Found:
    """Recall at equal size, what must be kept, and anchors of edits."""
    sized, left_out = _at_size(stage)
    kept = keeping(stage)
    both = {method: summed(tallies[method] for tallies in sized.values()) for method in Method}
    tables = (
        _by_session(sized, left_out),
        _by_class_and_age(both),
        _losses(both),
        *kept.tables,
    )
    verdicts = (*_verdicts(sized), *kept.verdicts)
    return Found(tables, verdicts, _figures(sized, both))


def _at_size(stage: Stage) -> tuple[dict[str, ByMethod], int]:
    """By session, each method's tallies over the requests that came down to SIZE; how many did not."""
    found: dict[str, ByMethod] = {}
    left_out = 0
    for session in stage.sessions:
        tallies: dict[Method, list[Tallies]] = {method: [] for method in Method}
        for number, request in enumerate(_chosen(session)):
            tokens = stage.scale.tokens(request)
            if tokens < LEAST_TOKENS:
                continue
            ours = shortened(request, one_step(tokens, SIZE), stage.scale)
            if ours.tokens > REACHED * tokens:
                left_out += 1
                continue
            facts = facts_of(request.messages)
            prompts = at_equal_size(request, ours, stage.scale, f"{session.name} {number}")
            for method, messages in prompts.items():
                tallies[method].append(tallied(facts, spoken(messages)))
        if tallies[Method.OURS]:
            found[session.name] = {method: summed(rows) for method, rows in tallies.items()}
            stage.say(f"recall of {session.name}: {mean(found[session.name][Method.OURS]):.2f}")
    return found, left_out


def _chosen(session: Session) -> Iterator[Request]:
    """Every third request, counted from the last: neighbours hold nearly the same facts."""
    yield from session.requests[::-1][::EVERY]


def _by_session(sized: dict[str, ByMethod], left_out: int) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (name, *(round(mean(tallies[method]), 3) for method in (Method.OURS, *BASELINES)))
        for name, tallies in sized.items()
    ]
    note = (
        f"Mean of the four classes' recall; each prompt was brought to {SIZE:.0%} of its size in one step, "
        f"and the baselines got the same tokens. {left_out} requests did not come below {REACHED:.0%}: what "
        "stays in any case is more. Untouched is 1 by definition."
    )
    return Table(
        f"Mean recall at {SIZE:.0%} of the size", ("session", Method.OURS, *BASELINES), tuple(rows), note
    )


def _by_class_and_age(both: ByMethod) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            kind,
            age,
            tally.all,
            *(by_class(both[method], age)[kind].share for method in (Method.OURS, *BASELINES)),
        )
        for kind in FactClass
        for age, _ in AGES
        if (tally := by_class(both[Method.OURS], age)[kind]).all
    ]
    rows += [
        (
            kind,
            "all",
            tally.all,
            *(by_class(both[method])[kind].share for method in (Method.OURS, *BASELINES)),
        )
        for kind, tally in by_class(both[Method.OURS]).items()
    ]
    note = "Age: turns from the end to where a fact was seen last. Ours always keeps the last two, 0 and 1."
    columns = ("class", "turns ago", "facts", Method.OURS, *BASELINES)
    return Table("Recall by class and age", columns, tuple(rows), note)


def _losses(both: ByMethod) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (kind, source, count, percent(share))
        for kind, source, count, share in losses(both[Method.OURS])[:MOST_LOSSES]
    ]
    return Table("What ours loses most", ("class", "seen in", "facts lost", "of its class"), tuple(rows))


def _verdicts(sized: dict[str, ByMethod]) -> Iterator[Verdict]:
    ours = _mean_of_sessions(sized, Method.OURS)
    what = f"mean recall at {SIZE:.0%} of the size"
    yield Verdict(what, f"{ours:.2f}", f"≥ {BAR_RECALL}", ours >= BAR_RECALL)
    for baseline in BASELINES:
        theirs = _mean_of_sessions(sized, baseline)
        yield Verdict(f"{what}, against {baseline}", f"{ours:.2f}", f"> {theirs:.2f}", ours > theirs)


def _mean_of_sessions(sized: dict[str, ByMethod], method: Method) -> float:
    """Each session weighs the same, however many facts it has."""
    return sum(mean(tallies[method]) for tallies in sized.values()) / len(sized) if sized else 0.0


def _figures(sized: dict[str, ByMethod], both: ByMethod) -> dict[str, Any]:
    shown = (Method.OURS, *BASELINES)
    return {
        "mean": {method: _mean_of_sessions(sized, method) for method in shown},
        "by_class": {
            method: {kind: tally.share for kind, tally in by_class(both[method]).items()} for method in shown
        },
        "by_age": {
            method: {
                age: sum(tally.share for tally in by_class(both[method], age).values()) / len(FactClass)
                for age, _ in AGES
            }
            for method in shown
        },
    }
