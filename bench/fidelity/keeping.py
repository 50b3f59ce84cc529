"""What must stay word for word, and the anchors of later edits, in every request of every session."""

from collections.abc import Collection, Iterator, Sequence

from bench.fidelity.anchors import Group, anchors_held
from bench.fidelity.methods import Scale, shortened
from bench.fidelity.protection import Kept, kept_word_for_word
from bench.fidelity.recall import Tally
from bench.fidelity.report import Cell, Found, Table, Verdict, percent
from bench.fidelity.sessions import Request, Session
from bench.fidelity.stage import Stage
from bench.fidelity.texts import with_texts
from server.routing.results import Key
from server.routing.squeeze import Marks, Rung, Shortening

WINDOWS = (32_768, 16_384, 8_192)


def keeping(stage: Stage) -> Found:
    """Both, in windows of three sizes."""
    kept, kept_rows = _kept(stage)
    anchors, anchor_rows = _anchors(stage)
    tables = (
        Table(
            "Kept word for word",
            ("session", "window", "requests", "pieces", "lost", "broken protocols"),
            kept_rows,
            "Each request's own step is looked at: files outlined before they were named are not lost.",
        ),
        Table(
            "Anchors of later edits",
            ("session", "window", *Group),
            anchor_rows,
            "By what protected the result that the anchor stands in, from its reading to the edit.",
        ),
    )
    return Found(tables, tuple(_verdicts(kept, anchors)))


def _kept(stage: Stage) -> tuple[Kept, tuple[tuple[Cell, ...], ...]]:
    total = Kept()
    rows: list[tuple[Cell, ...]] = []
    for session in stage.sessions:
        for window in WINDOWS:
            kept = _kept_in(session, window, stage)
            total += kept
            rows.append(
                (session.name, window, len(session.requests), kept.pieces, len(kept.lost), len(kept.broken))
            )
    for line in (*total.lost, *total.broken):
        stage.say(f"NOT KEPT: {line}")
    return total, tuple(rows)


def _kept_in(session: Session, window: int, stage: Stage) -> Kept:
    marks = Marks.of(window)
    return sum((_kept_by(request, marks, stage.scale) for request in session.requests), Kept())


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


def _anchors(stage: Stage) -> tuple[dict[Group, Tally], tuple[tuple[Cell, ...], ...]]:
    """In each window that is too small for the session, as it went on."""
    total = dict.fromkeys(Group, Tally())
    rows: list[tuple[Cell, ...]] = []
    for session in stage.sessions:
        tokens = stage.scale.tokens(session.longest)
        for window in (one for one in WINDOWS if one < tokens):
            held = anchors_held(session.longest, Marks.of(window), stage.scale)
            total = {group: total[group] + held[group] for group in Group}
            if any(tally.all for tally in held.values()):
                shares = (f"{held[group].kept} of {held[group].all}" for group in Group)
                rows.append((session.name, window, *shares))
    return total, tuple(rows)


def _verdicts(kept: Kept, anchors: dict[Group, Tally]) -> Iterator[Verdict]:
    yield Verdict("broken protocols", str(len(kept.broken)), "0", not kept.broken)
    still = Tally(kept.pieces - len(kept.lost), kept.pieces)
    what = "recall of what must be kept"
    yield Verdict(what, f"{percent(still.share)} of {still.all}", "100%", not kept.lost)
    spared = anchors[Group.THROUGHOUT]
    yield _anchor_verdict("by the router's rules", spared)
    yield _anchor_verdict("the rule for windows 90% full not excused", spared + anchors[Group.CROWDED])


def _anchor_verdict(how: str, tally: Tally) -> Verdict:
    what = f"anchors of edits in results protected throughout, {how}"
    return Verdict(what, f"{tally.kept} of {tally.all}", "100%", tally.share == 1.0)
