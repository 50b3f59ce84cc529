"""``/api/router``: what would be done with a chat and why, and the texts that were shortened."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from server.api.bodies import documented
from server.api.figures import shortened
from server.api.http import as_asked, read_body, unless_gone
from server.api.ollama.wire import ChatBody
from server.service.planning import Explanation
from server.service.service import Service

EXPLAIN = "/api/router/explain"


def router_router(service: Service) -> APIRouter:
    """The routes; what was shortened is for administrators (see :mod:`server.api.access`)."""
    router = APIRouter()

    async def explain(request: Request) -> Response:
        body = await read_body(request, ChatBody)
        wanted = as_asked(body.to_domain(), request)
        return JSONResponse(_explained(await unless_gone(request, service.explain(wanted))))

    async def original(name: str) -> Response:
        text = service.originals.get(name)
        if text is None:
            return JSONResponse({"error": f'there is no original "{name}", or not any more'}, status_code=404)
        return PlainTextResponse(text)

    router.add_api_route(EXPLAIN, explain, methods=["POST"], openapi_extra=documented(ChatBody))
    router.add_api_route("/api/router/original/{name}", original, methods=["GET"])
    return router


def _explained(explanation: Explanation) -> dict[str, Any]:
    plan = explanation.plan
    told: dict[str, Any] = {
        "model": explanation.model,
        "policy": explanation.policy.value if explanation.policy else None,
        "strategy": plan.strategy.value if plan else "direct",
        "reason": explanation.reason,
        "agent": explanation.facts.agent,
        "tokens_received": explanation.facts.tokens,
        "tokens_cached": explanation.facts.held_tokens,
        "tokens_sent": explanation.tokens_sent,
        "context_tokens": explanation.facts.window_tokens,
        "fits": explanation.fits,
        "shortened": [{**shortened(one), "text": one.text} for one in explanation.shortened],
    }
    if plan and plan.division:
        division = plan.division
        told["summarised"] = {
            "messages": len(division.history),
            "characters": division.material_chars,
        }
    return told
