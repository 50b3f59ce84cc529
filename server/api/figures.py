"""What this service did with a request, as every dialect tells it: in headers, and beside an answer."""

from dataclasses import asdict
from typing import Any

from server.routing.squeeze import Shortening
from server.service.originals import original_name
from server.service.placement import Placement
from server.service.reply import Opening
from server.service.report import Outcome, Routing

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a token that is out of the question: JSON has no infinity."""


def what_was_done(outcome: Outcome) -> dict[str, Any]:
    """For an answer's key ``llm_optimizer``. Durations are nanoseconds."""
    routing = outcome.routing
    done: dict[str, Any] = {
        "strategy": routing.strategy.value if routing.strategy else "direct",
        "planned": routing.planned.value if routing.planned else "direct",
        "reason": routing.reason,
        "tokens_received": routing.tokens_received,
        "tokens_sent": routing.tokens_sent,
        "tokens_cached": outcome.usage.cached_tokens,
        "summaries": routing.summaries,
        "summaries_reused": routing.summaries_reused,
        "helper_duration": routing.helper_ns,
        "context_tokens": outcome.context_tokens,
    }
    if routing.estimated:
        done["tokens_estimated"] = True
    if routing.fallback:
        done["fallback"] = routing.fallback
    if routing.shortened:
        done["shortened"] = [shortened(one) for one in routing.shortened]
    if routing.dropped_messages:
        done["dropped_messages"] = routing.dropped_messages
    if outcome.ignored:
        done["ignored"] = list(outcome.ignored)
    return done


def split_of(placement: Placement) -> list[dict[str, Any]] | None:
    """What each of several devices has of a model, in the order of its layers; None: it is on one."""
    if placement.split is None:
        return None
    return [
        {
            "device": part.device,
            "number": part.place.number,
            "layers": part.layers,
            "bytes": part.taken_bytes,
            "free_bytes": part.place.free_bytes,
        }
        for part in placement.split.parts
    ]


def reduced(placement: Placement) -> dict[str, Any] | None:
    """The settings that a loaded model does without, and why; null: none."""
    given_up = placement.reduced
    if given_up is None:
        return None
    return {"reason": given_up.reason, "settings": [asdict(one) for one in given_up.settings]}


def shortened(shortening: Shortening) -> dict[str, Any]:
    """One tool result that the model read in fewer words; lengths are characters."""
    result = shortening.result
    return {
        "message": result.key.message,
        "part": result.key.part,
        "subject": result.subject,
        "how": shortening.rung.value,
        "original": original_name(result.text),
        "characters": len(result.text),
        "characters_sent": len(shortening.text),
    }


def without_effect(names: tuple[str, ...]) -> dict[str, Any]:
    """For an answer that has nothing else of ours: the options that nothing was done with, if any."""
    return {"llm_optimizer": {"ignored": list(names)}} if names else {}


def routing_headers(routing: Routing) -> dict[str, str]:
    """What was done, for a response whose headers go out at its end."""
    opening = Opening(
        routing.strategy,
        routing.reason,
        routing.tokens_received,
        routing.dropped_messages,
        estimated=routing.estimated,
    )
    return {
        **planned_headers(opening),
        "X-LLM-Optimizer-Tokens-Sent": str(routing.tokens_sent),
        "X-LLM-Optimizer-Summaries": str(routing.summaries),
        "X-LLM-Optimizer-Helper-Ms": str(routing.helper_ns // 1_000_000),
    }


def planned_headers(opening: Opening | None) -> dict[str, str]:
    """What will be done, for a response that begins before it is; nothing where that is not known yet."""
    if opening is None:
        return {}
    told = {
        "X-LLM-Optimizer-Strategy": opening.strategy.value if opening.strategy else "direct",
        "X-LLM-Optimizer-Tokens-Received": str(opening.tokens_received),
    }
    if opening.estimated:
        told["X-LLM-Optimizer-Tokens-Estimated"] = "true"
    if opening.dropped_messages:
        told["X-LLM-Optimizer-Dropped-Messages"] = str(opening.dropped_messages)
    if opening.queue_position:
        told["X-LLM-Optimizer-Queue-Position"] = str(opening.queue_position)
    return told
