"""``/api/tokenize`` and ``/api/detokenize``, which Ollama lacks."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from server.api.access import check_may
from server.api.bodies import Lenient, documented, encoded
from server.api.http import of_caller, read_body, unless_gone
from server.api.ollama.wire import ChatBody
from server.api.options import read_keep_alive
from server.config import Right
from server.domain.chat import ChatRequest
from server.domain.errors import InvalidRequest
from server.service.service import Service

TOKENIZE, DETOKENIZE = "/api/tokenize", "/api/detokenize"


class TokenizeBody(ChatBody):
    """``POST /api/tokenize``: a text under one of three names, or a chat as ``/api/chat`` takes it."""

    content: str | None = None
    prompt: str | None = None
    text: str | None = None
    add_special: bool = False
    parse_special: bool = True

    def single_text(self) -> str | None:
        """The text; None for a chat.

        Raises:
            InvalidRequest: there is neither, or more than one thing to be read.
        """
        named = {"content": self.content, "prompt": self.prompt, "text": self.text}
        given = {name: text for name, text in named.items() if text is not None}
        if len(given) + bool(self.messages) != 1:
            names = [*given, *(["messages"] if self.messages else [])]
            held = f"this request has {' and '.join(names)}" if names else "this request has none of them"
            raise InvalidRequest(f"give one of content, prompt, text and messages; {held}")
        return next(iter(given.values()), None)


class DetokenizeBody(Lenient):
    """``POST /api/detokenize``."""

    model: str = ""
    tokens: list[int]
    keep_alive: Any = None


def texts_router(service: Service) -> APIRouter:
    """Both routes."""
    router = APIRouter()
    routes = _Routes(service)
    for path, answer, body in (
        (TOKENIZE, routes.tokenize, TokenizeBody),
        (DETOKENIZE, routes.detokenize, DetokenizeBody),
    ):
        router.add_api_route(path, answer, methods=["POST"], openapi_extra=documented(body))
    return router


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeBody)
        _check_name(body.model)
        text = body.single_text()
        if text is None:
            work = self._service.chat_tokens(_chat(body, request))
        else:
            work = self._service.tokenize(
                body.model,
                text,
                add_special=body.add_special,
                parse_special=body.parse_special,
                keep_alive_s=_keep_alive(body.keep_alive, request),
            )
        tokens = await unless_gone(request, work)
        answer = {"model": body.model, "tokens": tokens, "count": len(tokens)}
        return Response(encoded(answer), media_type="application/json")

    async def detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeBody)
        _check_name(body.model)
        keep_alive_s = _keep_alive(body.keep_alive, request)
        work = self._service.detokenize(body.model, body.tokens, keep_alive_s=keep_alive_s)
        return JSONResponse({"model": body.model, "content": await unless_gone(request, work)})


def _chat(body: TokenizeBody, request: Request) -> ChatRequest:
    return replace(of_caller(body.to_domain(), request), route=TOKENIZE)


def _keep_alive(value: Any, request: Request) -> float | None:
    """There is no room in these answers for what is ignored, so that what may not be is refused."""
    keep_alive_s = read_keep_alive(value)
    if keep_alive_s == 0:
        check_may(Right.ADMIN, request.scope, "unload models")
    return keep_alive_s


def _check_name(model: str) -> None:
    if not model:
        raise InvalidRequest("model is required")
