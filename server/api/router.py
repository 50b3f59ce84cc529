"""``/api/router``: what would be done with a chat and why, and the texts that were shortened."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from server.api.anthropic.wire import MessagesBody
from server.api.bodies import documented
from server.api.figures import shortened
from server.api.http import as_asked, read_body, unless_gone
from server.api.ollama.wire import ChatBody
from server.api.openai.chat_wire import ChatBody as OpenAIChatBody
from server.api.openai.responses_wire import ResponsesBody
from server.domain.chat import ChatRequest
from server.domain.errors import InvalidRequest
from server.service.planning import Explanation
from server.service.service import Service

EXPLAIN, CHAT = "/api/router/explain", "/api/chat"

Body = ChatBody | OpenAIChatBody | ResponsesBody | MessagesBody
_BODIES: Mapping[str, type[Body]] = {
    CHAT: ChatBody,
    "/v1/chat/completions": OpenAIChatBody,
    "/v1/responses": ResponsesBody,
    "/v1/messages": MessagesBody,
}


def router_router(service: Service) -> APIRouter:
    """The routes; what was shortened is for administrators (see :mod:`server.api.access`)."""
    router = APIRouter()

    async def explain(request: Request, path: str = CHAT) -> Response:
        """``path`` is the route that the body is meant for."""
        wanted = as_asked(_chat(await read_body(request, _kind_of(path))), request)
        return JSONResponse(_explained(await unless_gone(request, service.explain(wanted))))

    async def original(name: str) -> Response:
        text = service.originals.get(name)
        if text is None:
            return JSONResponse({"error": f'there is no original "{name}", or not any more'}, status_code=404)
        return PlainTextResponse(text)

    router.add_api_route(EXPLAIN, explain, methods=["POST"], openapi_extra=documented(ChatBody))
    router.add_api_route("/api/router/original/{name}", original, methods=["GET"])
    return router


def _kind_of(path: str) -> type[Body]:
    kind = _BODIES.get(path)
    if kind is None:
        raise InvalidRequest(f"{path} is not routed: chats are, at {', '.join(_BODIES)}")
    return kind


def _chat(body: Body) -> ChatRequest:
    return body.to_domain("/v1/messages") if isinstance(body, MessagesBody) else body.to_domain()


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
        "tokens_estimated": explanation.estimated,
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
