"""Time to the first token of each turn: measured for untouched and ours, reckoned for the naive way."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

from bench.fidelity.generated import generated
from bench.fidelity.methods import shortened
from bench.fidelity.prefill import Naive, naive_session
from bench.fidelity.reader import Read, Reader, open_model
from bench.fidelity.report import Cell, Found, Table
from bench.fidelity.sessions import Session, session_of
from bench.fidelity.stage import Stage
from bench.machine import processor_time, share_of_others, usable_cores
from bench.prompts import repeatable
from server.routing.squeeze import Marks

MOST_TOKENS, QUICK_TOKENS = 16_000, 7_000
"""Turns whose untouched prompt is longer are left out."""

WINDOW, QUICK_WINDOW = 16_384, 5_120
"""So that ours has to shorten within those."""

SHORT_TOKENS, SHORT_CHARS = 5_500, 3_000
SPARE_TOKENS = 64
WAYS = ("plain", "ours", "naive")
PROBE_READ, PROBE_WRITTEN = 1_000, 24


@dataclass(frozen=True)
class Pace:
    """Seconds that a model takes for a token."""

    read_s: float
    write_s: float


@dataclass(frozen=True)
class Turn:
    """One turn's time to the first token, in seconds, each way."""

    tokens: int
    plain_s: float
    ours_s: float
    ours_new: int
    naive_s: float


def waiting(stage: Stage) -> Found:
    """Turn by turn through the longest recorded session, or a short generated one."""
    recorded = max(stage.recorded, key=lambda one: stage.scale.tokens(one.longest), default=None)
    session = _short_session(stage) if stage.quick or recorded is None else recorded
    stage.say(f"first tokens of {session.name}")
    before = processor_time()
    turns = _turns(session, stage)
    others = share_of_others(before, processor_time())
    window = QUICK_WINDOW if stage.quick else WINDOW
    rows: list[tuple[Cell, ...]] = [
        (number, turn.tokens, turn.plain_s, turn.ours_s, turn.ours_new, turn.naive_s)
        for number, turn in enumerate(turns, 1)
    ]
    rows.append(
        (
            "all",
            max((turn.tokens for turn in turns), default=0),
            sum(turn.plain_s for turn in turns),
            sum(turn.ours_s for turn in turns),
            sum(turn.ours_new for turn in turns),
            sum(turn.naive_s for turn in turns),
        )
    )
    note = (
        f"Seconds; {session.name}, ours in a window of {window}. Plain and ours are measured turn about, "
        "each with a cache of its own, by the engine's library without server and scheduler. The naive one "
        "is not measured: it is its tokens times the seconds that a token takes either model here. Other "
        f"programs took {others:.0%} of the cores; one pass has no spread, so small differences mean nothing."
    )
    columns = ("turn", "tokens", "plain, s", "ours, s", "ours reads", "naive (reckoned), s")
    figures = {"first_token_s": {way: [getattr(turn, f"{way}_s") for turn in turns] for way in WAYS}}
    return Found((Table("Time to the first token", columns, tuple(rows), note),), (), figures)


def _short_session(stage: Stage) -> Session:
    """With little besides its results, and those short, so that something is shortened early."""
    conversation = generated(1, SHORT_TOKENS, stage.scale.count, most_chars=SHORT_CHARS)
    return session_of("generated, short results", conversation)


def _turns(session: Session, stage: Stage) -> list[Turn]:
    most = QUICK_TOKENS if stage.quick else MOST_TOKENS
    helper = _pace_of_helper(stage)
    with (
        closing(open_model(stage.model)) as model,
        closing(Reader(model, most + SPARE_TOKENS, usable_cores())) as plain,
        closing(Reader(model, most + SPARE_TOKENS, usable_cores())) as ours,
    ):
        return _interleaved(session, stage, most, (plain, ours), helper)


def _interleaved(
    session: Session, stage: Stage, most: int, readers: tuple[Reader, Reader], helper: Pace
) -> list[Turn]:
    plain, ours = readers
    marks = Marks.of(QUICK_WINDOW if stage.quick else WINDOW)
    turns: list[Turn] = []
    pace_s = 0.0
    costs = naive_session(session.requests, stage.scale.count, stage.scale.tokens)
    for request, cost in zip(session.requests, costs, strict=True):
        prompt = plain.tokens(stage.prompter.chat(request.messages, request.tools))
        short = ours.tokens(
            stage.prompter.chat(shortened(request, marks, stage.scale).messages, request.tools)
        )
        if max(len(prompt), len(short)) > most:
            break
        whole, less = _in_turns(plain, prompt, ours, short, ours_first=len(turns) % 2 == 1)
        pace_s = pace_s or whole.seconds / whole.new_tokens
        reckoned = _naive_s(cost, helper, pace_s)
        turns.append(Turn(len(prompt), whole.seconds, less.seconds, less.new_tokens, reckoned))
    return turns


def _in_turns(
    plain: Reader, prompt: Sequence[int], ours: Reader, short: Sequence[int], *, ours_first: bool
) -> tuple[Read, Read]:
    if ours_first:
        less = ours.read(short)
        return plain.read(prompt), less
    return plain.read(prompt), ours.read(short)


def _naive_s(cost: Naive, helper: Pace, generator_read_s: float) -> float:
    waited_s = cost.helper_read * helper.read_s + cost.helper_written * helper.write_s
    return waited_s + cost.generator_read * generator_read_s


def _pace_of_helper(stage: Stage) -> Pace:
    """By one prompt, as long as a piece of the naive pipeline is at most, and some words."""
    text = stage.prompter.listing(repeatable("helper"), PROBE_READ)
    with (
        closing(open_model(stage.helper)) as model,
        closing(Reader(model, 2 * PROBE_READ, usable_cores())) as reader,
    ):
        prompt = reader.tokens(text)
        read = reader.read(prompt)
        started = perf_counter()
        written = reader.tokens(reader.answer(prompt, PROBE_WRITTEN))
        return Pace(read.seconds / read.new_tokens, (perf_counter() - started) / max(len(written), 1))
