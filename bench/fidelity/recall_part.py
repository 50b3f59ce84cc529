"""Recall: what is left of a session's facts at equal size, and what must be left in any case."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from bench.fidelity.anchors import Group, anchors_held
from bench.fidelity.methods import BASELINES, Method, Scale, at_equal_size, one_step, shortened
from bench.fidelity.protection import Kept, kept_word_for_word
from bench.fidelity.recall import (
    AGES,
    FactClass,
    Tallies,
    Tally,
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
from bench.fidelity.texts import spoken, with_texts
from server.routing.results import Key
from server.routing.squeeze import Marks, Rung, Shortening

SIZE = 0.45
REACHED = SIZE + 0.05
"""Up to this share a prompt counts as one of SIZE: results go as a whole, so that a step seldom hits it."""

LEAST_TOKENS = 12_000
"""Shorter requests are mostly system prompt, tools and last turns, which stay."""

WINDOWS = (32_768, 16_384, 8_192)
EVERY = 3
MOST_LOSSES = 12
BAR_RECALL = 0.9

ByMethod = Mapping[Method, Tallies]


def measure(stage: Stage) -> Found:
    """Recall at equal size, what must be kept, and anchors of edits."""
    sized, left_out = _at_size(stage)
    kept, kept_rows = _kept(stage)
    anchors, anchor_rows = _anchors(stage)
    both = {method: summed(tallies[method] for tallies in sized.values()) for method in Method}
    tables = (
        _by_session(sized, left_out),
        _by_class_and_age(both),
        _losses(both),
        Table("Kept word for word", ("session", "window", "requests", "pieces", "broken"), kept_rows),
        Table("Anchors of later edits", ("session", "shortened", *Group), anchor_rows),
    )
    verdicts = (*_verdicts(sized), *_must_keep(kept, anchors))
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


def _kept(stage: Stage) -> tuple[Kept, tuple[tuple[str | int, ...], ...]]:
    total, rows = Kept(0), []
    for session in stage.sessions:
        for window in WINDOWS:
            kept = _kept_in(session, window, stage)
            total = Kept(total.pieces + kept.pieces, (*total.broken, *kept.broken))
            rows.append((session.name, window, len(session.requests), kept.pieces, len(kept.broken)))
    for line in total.broken:
        stage.say(f"BROKEN: {line}")
    return total, tuple(rows)


def _kept_in(session: Session, window: int, stage: Stage) -> Kept:
    total = Kept(0)
    for request in session.requests:
        kept = _kept_by(request, Marks.of(window), stage.scale)
        total = Kept(total.pieces + kept.pieces, (*total.broken, *kept.broken))
    return total


def _kept_by(request: Request, marks: Marks, scale: Scale) -> Kept:
    """What this request's own step did: earlier steps were right or wrong in their own requests."""
    squeezed = shortened(request, marks, scale)
    earlier = _one_turn_before(request)
    known = _texts(shortened(earlier, marks, scale).shortenings) if earlier else {}
    new = [one for one in squeezed.shortenings if one.result.key not in known]

    def tokens_without(keys: Collection[Key]) -> int:
        # Notes come after all else, so what they save cannot show whether a protected result had to go.
        notes = {one.result.key for one in squeezed.shortenings if one.rung is Rung.NOTE}
        texts = {one.result.key: one.result.text for one in new if one.result.key in notes.union(keys)}
        texts |= {key: known[key] for key in notes.intersection(known)}
        return scale.tokens(request, with_texts(squeezed.messages, texts))

    return kept_word_for_word(request.messages, squeezed.messages, new, marks.limit, tokens_without)


def _texts(shortenings: Sequence[Shortening]) -> dict[Key, str]:
    return {one.result.key: one.text for one in shortenings}


def _one_turn_before(request: Request) -> Request | None:
    answers = [place for place, message in enumerate(request.messages) if message.role == "assistant"]
    return Request(request.messages[: answers[-1]], request.tools) if answers else None


def _anchors(stage: Stage) -> tuple[dict[Group, Tally], tuple[tuple[str, ...], ...]]:
    """Once with a single step right before each edit, once in each window as the session went on."""
    total, rows = dict.fromkeys(Group, Tally()), []
    for session in stage.sessions:
        conversation = session.longest
        tokens = stage.scale.tokens(conversation)
        named = {f"window {window}": Marks.of(window) for window in WINDOWS if window < tokens}
        for name, marks in named.items():
            held = anchors_held(conversation, marks, stage.scale)
            if any(tally.all for tally in held.values()):
                rows.append(
                    (session.name, name, *(f"{held[group].kept} of {held[group].all}" for group in Group))
                )
            total = {group: total[group] + held[group] for group in Group}
    return total, tuple(rows)


def _by_session(sized: dict[str, ByMethod], left_out: int) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (name, *(round(mean(tallies[method]), 3) for method in (Method.OURS, *BASELINES)))
        for name, tallies in sized.items()
    ]
    note = (
        f"Mean of the four classes' recall; each prompt was brought to {SIZE:.0%} of its size in one step, "
        f"and the baselines got the same tokens. {left_out} requests did not come below {REACHED:.0%}: what stays "
        "in any case is more. Untouched is 1 by definition."
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


def _must_keep(kept: Kept, anchors: dict[Group, Tally]) -> Iterator[Verdict]:
    broken = len(kept.broken)
    yield Verdict(
        "broken protocols and lost must-keeps", f"{broken} of {kept.pieces} pieces", "0", not broken
    )
    tally = anchors[Group.THROUGHOUT]
    figure = f"{percent(tally.share)} of {tally.all}"
    yield Verdict("anchors of edits in protected results", figure, "100%", tally.share == 1.0)


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
