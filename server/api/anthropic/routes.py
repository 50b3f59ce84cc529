"""Anthropic's routes: small functions from a request to the service and back."""

from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from server.api.anthropic.answer import Content, ending, last_usage, new_message
from server.api.anthropic.errors import error_body
from server.api.anthropic.stream import PING, EventMaker, event_bytes
from server.api.anthropic.wire import CountBody, MessagesBody
from server.api.bodies import documented, encoded
from server.api.figures import planned_headers, routing_headers, what_was_done
from server.api.http import EVENT_STREAM, LineStream, as_asked, opened_soon, read_body, status_of, unless_gone
from server.domain.chat import ChatRequest
from server.domain.errors import ServiceError
from server.service.reply import Reply
from server.service.report import Outcome
from server.service.service import Service


def anthropic_router(service: Service) -> APIRouter:
    """All routes of this dialect."""
    router = APIRouter()
    routes = _Routes(service)
    for path, answer, body in (
        ("/v1/messages", routes.messages, MessagesBody),
        ("/v1/messages/count_tokens", routes.count_tokens, CountBody),
    ):
        router.add_api_route(path, answer, methods=["POST"], openapi_extra=documented(body))
    return router


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def messages(self, request: Request) -> Response:
        wanted = await self._wanted(request, MessagesBody)
        opening = self._service.chat(wanted)
        if wanted.stream:
            return _stream(await opened_soon(request, opening), wanted)
        return await unless_gone(request, _whole(opening, wanted))

    async def count_tokens(self, request: Request) -> Response:
        wanted = await self._wanted(request, CountBody)
        tokens = await unless_gone(request, self._service.count(wanted))
        return JSONResponse({"input_tokens": tokens})

    async def _wanted(self, request: Request, kind: type[MessagesBody]) -> ChatRequest:
        body = await read_body(request, kind)
        wanted = await self._without_thinking_unless_able(body.to_domain(request.url.path))
        return as_asked(wanted, request)

    async def _without_thinking_unless_able(self, wanted: ChatRequest) -> ChatRequest:
        """Claude Code asks every model to think; one that cannot answers without."""
        options = wanted.options
        if not options.think or await self._service.can(wanted.model, "thinking"):
            return wanted
        return replace(wanted, options=replace(options, think=False, ignored=(*options.ignored, "thinking")))


def _stream(reply: Reply, wanted: ChatRequest) -> Response:
    return LineStream(
        _events(reply, wanted),
        heartbeat=lambda: event_bytes(PING),
        last_words=lambda error: event_bytes(
            error_body(status_of(error), str(error), wanted.account.visit.id)
        ),
        close=reply.aclose,
        media_type=EVENT_STREAM,
        headers={"cache-control": "no-cache", **planned_headers(reply.opening)},
    )


async def _events(reply: Reply, wanted: ChatRequest) -> AsyncGenerator[bytes, None]:
    maker = EventMaker(wanted)
    for event in maker.begin(reply.opening.tokens_received if reply.opening else 0):
        yield event_bytes(event)
    async for part in reply:
        events = maker.end(part) if isinstance(part, Outcome) else maker.events(part)
        together = b"".join(map(event_bytes, events))
        if together:
            yield together


async def _whole(opening: Coroutine[Any, Any, Reply], wanted: ChatRequest) -> Response:
    """Everything as one message."""
    content = Content()
    reply = await opening
    try:
        async for part in reply:
            if isinstance(part, Outcome):
                return _message(content, part, wanted)
            content.add(part)
    finally:
        await reply.aclose()
    raise ServiceError("the answer ended without an end")


def _message(content: Content, outcome: Outcome, wanted: ChatRequest) -> Response:
    answer = {
        **new_message(wanted.model, last_usage(outcome)),
        "content": content.blocks,
        **ending(outcome, wanted.options, called=content.called),
        "llm_optimizer": what_was_done(outcome),
    }
    return Response(encoded(answer), media_type="application/json", headers=routing_headers(outcome.routing))
