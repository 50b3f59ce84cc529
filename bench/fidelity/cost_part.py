"""Cost: tokens that both models read over a session, time to its first tokens, and whether it goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.fidelity.baselines import front_truncated
from bench.fidelity.methods import Scale, shortened
from bench.fidelity.prefill import naive_session, prefilled
from bench.fidelity.report import Cell, Found, Table, Verdict
from bench.fidelity.sessions import Request, Session
from bench.fidelity.stage import Stage
from bench.fidelity.waiting import waiting
from server.domain.chat import Message, Policy
from server.routing.agents import agent_signs
from server.routing.decide import Facts, Strategy, Thresholds, decide
from server.routing.squeeze import ANSWER_TOKENS, Marks

BIG = "s2-big"
LEAST_TOKENS = 20_000
WINDOWS = (32_768, 16_384)
BAR_PREFILL = 1.25
WINDOW_OF_LONG = 16_384
DEFAULTS = Thresholds(a_max=2_000, b_max=6_000, min_material_chars=1_000)


@dataclass(frozen=True)
class Spent:
    """What a session took: each turn's tokens on the generator, all of the helper's, the longest prompt."""

    generator: tuple[int, ...]
    helper: int
    longest: int


def measure(stage: Stage) -> Found:
    """Prefill over long sessions, the 45K session in 16K, the helper's part, and first tokens."""
    long = [session for session in stage.sessions if stage.scale.tokens(session.longest) >= LEAST_TOKENS]
    spent = {session.name: _all_spent(session, stage) for session in long}
    fitting = _going_on(stage)
    waited = waiting(stage)
    helped = [call for session in stage.sessions for call in _asks_helper(session, stage.scale)]
    verdicts = (
        *_prefill_verdicts(spent),
        Verdict(
            "requests of agents for which the helper is asked before the first token",
            f"{sum(helped)} of {len(helped)}",
            "0",
            not any(helped),
        ),
        *(_fit_verdict(row) for row in fitting),
    )
    columns = ("session", "longest prompt", "room left", "turns", "steps", "all fit")
    long_table = Table(f"Sessions of 45K tokens in a window of {WINDOW_OF_LONG}", columns, tuple(fitting))
    tables = (_prefill_table(spent), long_table, *waited.tables)
    turns = {name: {way: each.generator for way, each in ways.items()} for name, ways in spent.items()}
    return Found(tables, verdicts, {"turns": turns, **waited.figures})


def _all_spent(session: Session, stage: Stage) -> dict[str, Spent]:
    stage.say(f"cost of {session.name}")
    found = {"untouched, no end of the window": _spent(session, stage, lambda request: request.messages)}
    for window in WINDOWS:
        found[f"ours in {window}"] = _spent(session, stage, _ours(window, stage.scale))
        found[f"front-truncated in {window}"] = _spent(session, stage, _truncated(window, stage.scale))
    found["naive pipeline"] = _naive(session, stage)
    return found


def _spent(session: Session, stage: Stage, view: Callable[[Request], Sequence[Message]]) -> Spent:
    prompts = [
        stage.prompter.vocabulary.tokens(stage.prompter.chat(view(request), request.tools))
        for request in session.requests
    ]
    return Spent(tuple(prefilled(prompts)), 0, max(map(len, prompts)))


def _ours(window: int, scale: Scale) -> Callable[[Request], Sequence[Message]]:
    return lambda request: shortened(request, Marks.of(window), scale).messages


def _truncated(window: int, scale: Scale) -> Callable[[Request], Sequence[Message]]:
    room = window - ANSWER_TOKENS
    return lambda request: front_truncated(
        request.messages, lambda messages: scale.tokens(request, messages) <= room
    )


def _naive(session: Session, stage: Stage) -> Spent:
    costs = naive_session(session.requests, stage.scale.count, stage.scale.tokens)
    read = tuple(cost.generator_read for cost in costs)
    return Spent(read, sum(cost.helper_read for cost in costs), max(read))


def _prefill_table(spent: dict[str, dict[str, Spent]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, ways in spent.items():
        plain = sum(next(iter(ways.values())).generator)
        for way, each in ways.items():
            total = sum(each.generator)
            rows.append((name, way, total, total / plain, each.helper, each.longest))
    note = (
        "The start that a prompt shares with the one before is free. Rendered prompts, token by token, but "
        "for the naive pipeline: that is reckoned from the seeds' own thresholds (2K, 6K, pieces of 2K, 500 "
        "characters a summary), and its generator reads little because it is told little."
    )
    columns = ("session", "way", "generator reads", "of untouched", "helper reads", "longest prompt")
    return Table("Tokens read over a session", columns, tuple(rows), note)


def _prefill_verdicts(spent: dict[str, dict[str, Spent]]) -> list[Verdict]:
    if BIG not in spent:
        return []
    plain = sum(next(iter(spent[BIG].values())).generator)
    ratios = {window: sum(spent[BIG][f"ours in {window}"].generator) / plain for window in WINDOWS}
    return [
        Verdict(
            f"generator's prefill on {BIG} in {window}, of untouched",
            f"{ratio:.2f}",
            f"≤ {BAR_PREFILL}",
            ratio <= BAR_PREFILL,
        )
        for window, ratio in ratios.items()
    ]


def _going_on(stage: Stage) -> list[tuple[str, int, int, int, int, str]]:
    """Whether each prompt of the long sessions leaves room for an answer."""
    rows = []
    for session in stage.generated:
        squeezed = [shortened(request, Marks.of(WINDOW_OF_LONG), stage.scale) for request in session.requests]
        sizes = [
            stage.prompter.vocabulary.count(stage.prompter.chat(one.messages, request.tools))
            for one, request in zip(squeezed, session.requests, strict=True)
        ]
        room = WINDOW_OF_LONG - max(sizes)
        fits = "yes" if room >= ANSWER_TOKENS else "NO"
        rows.append((session.name, max(sizes), room, len(sizes), squeezed[-1].steps, fits))
    return rows


def _fit_verdict(row: tuple[str, int, int, int, int, str]) -> Verdict:
    name, longest, _, turns, _, fits = row
    what = f"{name}: 45K tokens in a window of {WINDOW_OF_LONG}, longest of {turns} prompts"
    return Verdict(what, str(longest), f"≤ {WINDOW_OF_LONG - ANSWER_TOKENS}", fits == "yes")


def _asks_helper(session: Session, scale: Scale) -> list[bool]:
    """Whether the router would have the helper shorten a request, in the smaller of the windows.

    Every other request has a cold cache, which is when the thresholds would send a chat there.
    """
    found = []
    for number, request in enumerate(session.requests):
        tokens = scale.tokens(request)
        signs = agent_signs(request.messages, has_tools=bool(request.tools))
        facts = Facts(tokens, tokens if number % 2 else 0, min(WINDOWS), signs)
        plan = decide(request.messages, facts, Policy.AUTO, DEFAULTS, scale.count)
        found.append(plan.strategy is not Strategy.A)
    return found
