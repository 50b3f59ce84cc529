"""What becomes of a request, written down in its account as it becomes known."""

from dataclasses import replace

from server.domain.account import Account, ShortenedItem
from server.domain.generation import FinishReason
from server.routing.decide import Plan, Strategy
from server.routing.squeeze import Shortening
from server.service.originals import original_name
from server.service.report import Routing

DIRECT = "direct"
"""How the work of a model that is never routed is called."""


def note_admitted(account: Account, context_tokens: int, load_ns: int) -> None:
    """The request has its model."""
    account.work = replace(account.work, context_tokens=context_tokens, load_s=load_ns / 1e9)


def note_tokens(account: Account, tokens: int) -> None:
    """The texts of a request are counted, and go to the model as they are."""
    account.work = replace(account.work, tokens_received=tokens, tokens_sent=tokens)


def note_plan(account: Account, plan: Plan | None, tokens: int) -> None:
    """A chat of so many tokens is to be answered like this."""
    division = plan.division if plan and plan.strategy is not Strategy.A else None
    account.work = replace(
        account.work,
        planned=name_of(plan.strategy if plan else None),
        reason=plan.reason if plan else None,
        tokens_received=tokens,
        summarised_messages=len(division.history) if division else 0,
        summarised_characters=division.material_chars if division else 0,
    )


def note_routing(account: Account, routing: Routing) -> None:
    """The prompt is ready, and came about like this."""
    account.work = replace(
        account.work,
        strategy=name_of(routing.strategy),
        planned=name_of(routing.planned),
        reason=routing.reason,
        fallback=routing.fallback,
        tokens_received=routing.tokens_received,
        tokens_sent=routing.tokens_sent,
        tokens_estimated=routing.estimated or None,
        summaries=routing.summaries,
        summaries_reused=routing.summaries_reused,
        dropped_messages=routing.dropped_messages,
        shortened=tuple(map(_item, routing.shortened)),
        helper_s=routing.helper_ns / 1e9,
    )


def note_finish(account: Account, reason: FinishReason) -> None:
    """The answer ran to its end."""
    account.work = replace(account.work, finish=reason.value)


def name_of(strategy: Strategy | None) -> str:
    """How a strategy is told."""
    return strategy.value if strategy else DIRECT


def _item(shortening: Shortening) -> ShortenedItem:
    result = shortening.result
    return ShortenedItem(
        message=result.key.message,
        how=shortening.rung.value,
        characters=len(result.text),
        characters_sent=len(shortening.text),
        original=original_name(result.text),
    )
