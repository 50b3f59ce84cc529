"""Ollama's routes: small functions from a request to the service and back."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from server import __version__
from server.api.access import check_may
from server.api.bodies import documented, encoded
from server.api.figures import planned_headers, routing_headers, without_effect
from server.api.http import LineStream, as_asked, of_caller, opened_soon, read_body, unless_gone
from server.api.ollama import models
from server.api.ollama.embeddings import embeddings_router
from server.api.ollama.manage import manage_router
from server.api.ollama.wire import (
    NDJSON,
    ChatBody,
    GenerateBody,
    Run,
    ShowBody,
    chat_chunk,
    closing,
    error_line,
    generate_chunk,
    line,
    now,
)
from server.catalogue import ModelName
from server.config import Right
from server.domain.chat import AnswerDelta
from server.domain.errors import InvalidRequest, ModelNotFound
from server.service.reply import Reply
from server.service.report import Outcome
from server.service.service import Service

VERSION = "0.32.15"
"""The Ollama version whose interface this is: clients ask for a minimum."""

COPILOT = "GitHubCopilotChat/"
"""How VS Code's Copilot begins to name itself; it shows a model under what is its basename."""

Chunk = Callable[[AnswerDelta], dict[str, Any]]


def ollama_router(service: Service) -> APIRouter:
    """All routes of the native dialect."""
    router = APIRouter()
    _add_get_and_head(router, "/api/version", _version)
    routes = _Routes(service)
    _add_get_and_head(router, "/api/tags", routes.tags)
    router.add_api_route("/api/ps", routes.ps, methods=["GET"])
    for path, answer, body in (
        ("/api/show", routes.show, ShowBody),
        ("/api/chat", routes.chat, ChatBody),
        ("/api/generate", routes.generate, GenerateBody),
    ):
        router.add_api_route(path, answer, methods=["POST"], openapi_extra=documented(body))
    router.include_router(embeddings_router(service))
    router.include_router(manage_router(service))
    return router


def _add_get_and_head(router: APIRouter, path: str, answer: Callable[[], Response]) -> None:
    """Apart, because each entry of the OpenAPI document has a name of its own."""
    router.add_api_route(path, answer, methods=["GET"])
    router.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)


def _version() -> Response:
    """Ollama's body to the letter; the header tells our own commands who answers."""
    return JSONResponse({"version": VERSION}, headers={"X-LLM-Optimizer-Version": __version__})


class _Routes:
    """The routes that need the service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def tags(self) -> Response:
        """Plain functions run in a thread: the first look at a file reads its header."""
        return JSONResponse({"models": [models.tag(model) for model in self._service.catalogue.installed()]})

    async def ps(self) -> Response:
        fleet = self._service.fleet
        loaded = [models.resident(resident) for resident in fleet.residents()]
        arriving = map(models.arriving, fleet.arriving())
        distant = map(models.distant, fleet.elsewhere.distant())
        return JSONResponse({"models": [*loaded, *arriving, *distant]})

    async def show(self, request: Request) -> Response:
        body = await read_body(request, ShowBody)
        if not body.wanted:
            raise InvalidRequest("model is required")
        try:
            entry = self._service.catalogue.find(body.wanted)
        except ModelNotFound:
            raise ModelNotFound(ModelName.parse(body.wanted).display) from None
        installed = await asyncio.to_thread(self._service.catalogue.inspect, entry)
        shown = await asyncio.to_thread(models.show, installed, body)
        if request.headers.get("user-agent", "").startswith(COPILOT):
            shown["model_info"]["general.basename"] = body.wanted
        return JSONResponse(shown)

    async def chat(self, request: Request) -> Response:
        body = await read_body(request, ChatBody)
        if not body.model:
            raise InvalidRequest("model is required")
        if not body.messages:
            return await self._load_or_unload(request, body, "chat", {"message": _EMPTY_MESSAGE})
        wanted = as_asked(body.to_domain(), request)
        numbered = _CallNumbers(body.model)
        opening = self._service.chat(wanted)
        if wanted.stream:
            return _stream(await opened_soon(request, opening), numbered.chunk)
        return await unless_gone(request, _whole(opening, numbered.chunk))

    async def generate(self, request: Request) -> Response:
        body = await read_body(request, GenerateBody)
        if not body.model:
            raise ModelNotFound("")
        if not body.prompt and not body.suffix:
            return await self._load_or_unload(request, body, "generate", {"response": ""})
        wanted = of_caller(body.to_domain(), request)
        opening = self._service.complete(wanted)

        def chunk(delta: AnswerDelta) -> dict[str, Any]:
            return generate_chunk(body.model, delta)

        with_context = not wanted.raw
        if wanted.stream:
            return _stream(await opened_soon(request, opening), chunk, with_context=with_context)
        return await unless_gone(request, _whole(opening, chunk, with_context=with_context))

    async def _load_or_unload(
        self, request: Request, body: Run, purpose: str, empty: dict[str, Any]
    ) -> Response:
        """A request without a prompt loads the model, or with ``keep_alive`` 0 unloads it."""
        options = body.run_options()
        if options.keep_alive_s == 0:
            check_may(Right.ADMIN, request.scope, "unload models")
            self._service.unload(body.model)
            reason = "unload"
        else:
            await unless_gone(request, self._service.load(body.model, purpose, options))
            reason = "load"
        answer = {"model": body.model, "created_at": now(), **empty, "done": True, "done_reason": reason}
        return JSONResponse({**answer, **without_effect(options.ignored)})


class _CallNumbers:
    """Makes a chat's chunks; parallel tool calls get rising numbers over all of them."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._calls = 0

    def chunk(self, delta: AnswerDelta) -> dict[str, Any]:
        chunk = chat_chunk(self._model, delta, self._calls)
        self._calls += len(delta.tool_calls)
        return chunk


_EMPTY_MESSAGE = {"role": "assistant", "content": ""}


def _stream(reply: Reply, chunk: Chunk, *, with_context: bool = False) -> Response:
    return LineStream(
        _lines(reply, chunk, with_context=with_context),
        heartbeat=lambda: line(chunk(AnswerDelta())),
        last_words=error_line,
        close=reply.aclose,
        media_type=NDJSON,
        headers=planned_headers(reply.opening),
    )


async def _lines(reply: Reply, chunk: Chunk, *, with_context: bool) -> AsyncGenerator[bytes, None]:
    # Something to read at once: whoever waits for a first byte must not wait for the model.
    yield line(chunk(AnswerDelta()))
    async for part in reply:
        if isinstance(part, Outcome):
            yield line(_last(part, chunk(AnswerDelta()), with_context=with_context))
        elif part.content or part.thinking or part.tool_calls or part.scores:
            yield line(chunk(part))


async def _whole(
    opening: Coroutine[Any, Any, Reply], chunk: Chunk, *, with_context: bool = False
) -> Response:
    """Everything as one object."""
    everything, outcome = await (await opening).whole()
    answer = _last(outcome, chunk(everything), with_context=with_context)
    return Response(encoded(answer), media_type="application/json", headers=routing_headers(outcome.routing))


def _last(outcome: Outcome, chunk: dict[str, Any], *, with_context: bool) -> dict[str, Any]:
    context = {"context": [*outcome.prompt, *outcome.answer]} if with_context and outcome.prompt else {}
    return {**chunk, **closing(outcome), **context}
