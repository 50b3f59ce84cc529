"""What was done with a request: for the answer's last chunk and for the log."""

import logging
from dataclasses import dataclass

from server.domain.generation import FinishReason, Usage
from server.routing.decide import Plan, Strategy
from server.routing.shorten import Shortened
from server.routing.squeeze import Shortening, Squeezed

logger = logging.getLogger("llm-optimizer")


@dataclass(frozen=True, slots=True)
class Routing:
    """How a request was routed. ``strategy`` None: it named the helper, or was no chat.

    ``tokens_received`` counts the prompt as the client sent it, ``tokens_sent`` as the model read it.
    """

    strategy: Strategy | None
    planned: Strategy | None
    reason: str
    tokens_received: int
    tokens_sent: int
    summaries: int = 0
    summaries_reused: int = 0
    """So many of them were made for an earlier turn."""
    helper_ns: int = 0
    fallback: str | None = None
    dropped_messages: int = 0
    """So many of the oldest were left out, because the chat did not fit and the client allows it."""
    estimated: bool = False
    """The tokens are estimated: the model's vocabulary is elsewhere, and nobody has counted them."""
    shortened: tuple[Shortening, ...] = ()
    """Old tool results of an agent's session that the model read in fewer words."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an answer. Times run from the request's arrival; ``prompt`` and ``answer`` are token ids.

    ``stop`` is the stop string that ended it.
    """

    reason: FinishReason
    usage: Usage
    routing: Routing
    load_ns: int
    total_ns: int
    context_tokens: int
    ignored: tuple[str, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    stop: str | None = None
    thinking_tokens: int = 0
    """So many of ``answer`` were thinking, with the tag that closes it."""


def log_ignored(route: str, names: tuple[str, ...]) -> None:
    """One line for a request with options that nothing is done with."""
    if names:
        logger.info("%s: options ignored: %s", route, ", ".join(names))


def log_plan(route: str, plan: Plan, *, stream: bool) -> None:
    """The lines that the user greps for, when the strategy is chosen."""
    match plan.strategy:
        case Strategy.A:
            logger.info("%s: direto GPU0 (%d tokens, stream=%s)", route, plan.tokens, stream)
        case Strategy.B:
            logger.info("%s: dual-GPU pipeline B (%d tokens)", route, plan.tokens)
        case Strategy.C:
            logger.info("%s: map-reduce pipeline C (%d tokens)", route, plan.tokens)


def log_summaries(strategy: Strategy, messages_in: int, short: Shortened) -> None:
    """The lines that the user greps for, when the helper is done."""
    if short.reused:
        logger.info("%d summaries of earlier turns go on", short.reused)
    if strategy is Strategy.C:
        summaries = len(short.summaries)
        logger.info("map-reduce %d → %d msgs, %d summaries", messages_in, len(short.messages), summaries)
        return
    for summary in short.new_summaries:
        logger.info("GPU1 summary: %d chars", len(summary))


def log_fallback(route: str, plan: Plan, why: str) -> None:
    """One line for each time the generator has to do without the helper."""
    logger.warning(
        "%s: fallback direto GPU0 (%d tokens, pipeline %s): %s",
        route,
        plan.tokens,
        plan.strategy.value,
        why,
    )


def log_squeezed(route: str, squeezed: Squeezed, received: int, sent: int) -> None:
    """One line for each request whose old tool results were shortened."""
    logger.info(
        "%s: %d old tool results shortened, %d → %d tokens", route, len(squeezed.shortenings), received, sent
    )


def log_dropped(route: str, messages: int, tokens: int, context_tokens: int) -> None:
    """One line for each chat that lost messages."""
    logger.warning(
        "%s: %d of the oldest messages were left out: %d tokens do not fit a context of %d",
        route,
        messages,
        tokens,
        context_tokens,
    )
