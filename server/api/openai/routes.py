"""OpenAI's routes: small functions from a request to the service and back."""

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.bodies import documented, encoded
from server.api.http import as_asked, of_caller, opened_soon, read_body, unless_gone
from server.api.openai.chat_wire import ChatAnswer, ChatBody
from server.api.openai.completions_wire import CompletionAnswer, CompletionBody
from server.api.openai.embeddings_wire import EmbeddingsBody, embeddings_object
from server.api.openai.models import model_object
from server.api.openai.responses_stream import ResponseAnswer
from server.api.openai.responses_wire import SECRET_THOUGHTS, ResponsesBody, repeated
from server.api.openai.sse import Answer, at_once, streamed
from server.domain.chat import ChatRequest
from server.service.reply import Reply
from server.service.service import Service


def openai_router(service: Service) -> APIRouter:
    """All routes of OpenAI's dialect."""
    router = APIRouter(prefix="/v1")
    routes = _Routes(service)
    router.add_api_route("/models", routes.models, methods=["GET"])
    router.add_api_route("/models/{name:path}", routes.model, methods=["GET"])
    for path, answer, body in (
        ("/chat/completions", routes.chat, ChatBody),
        ("/completions", routes.complete, CompletionBody),
        ("/responses", routes.respond, ResponsesBody),
        ("/embeddings", routes.embed, EmbeddingsBody),
    ):
        router.add_api_route(path, answer, methods=["POST"], openapi_extra=documented(body))
    return router


class _Routes:
    """The routes over the service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def models(self) -> Response:
        """Plain functions run in a thread: the first look at a file reads its header."""
        installed = self._service.catalogue.installed()
        return _json({"object": "list", "data": [model_object(model) for model in installed]})

    def model(self, name: str) -> Response:
        catalogue = self._service.catalogue
        return _json(model_object(catalogue.inspect(catalogue.find(name)), name))

    async def chat(self, request: Request) -> Response:
        body = await read_body(request, ChatBody)
        wanted = as_asked(body.to_domain(), request)
        opening = self._service.chat(wanted)
        return await _answered(request, opening, ChatAnswer(body), stream=body.stream)

    async def complete(self, request: Request) -> Response:
        body = await read_body(request, CompletionBody)
        wanted = of_caller(body.to_domain(), request)
        opening = self._service.complete(wanted)
        return await _answered(request, opening, CompletionAnswer(body), stream=body.stream)

    async def respond(self, request: Request) -> Response:
        body = await read_body(request, ResponsesBody)
        wanted = as_asked(await self._relaxed(body.to_domain()), request)
        answer = ResponseAnswer(
            repeated(body, wanted.options),
            body.tool_names(),
            secret_thoughts=SECRET_THOUGHTS in body.include,
        )
        return await _answered(request, self._service.chat(wanted), answer, stream=body.stream)

    async def embed(self, request: Request) -> Response:
        body = await read_body(request, EmbeddingsBody)
        wanted = of_caller(body.to_domain(), request)
        embedded = await unless_gone(request, self._service.embed(wanted))
        return _json(embeddings_object(body, embedded.vectors, embedded.prompt_tokens))

    async def _relaxed(self, wanted: ChatRequest) -> ChatRequest:
        """Codex asks every model for an effort: one that cannot think just answers."""
        options = wanted.options
        if not options.think or await self._service.can(wanted.model, "thinking"):
            return wanted
        ignored = (*options.ignored, "reasoning.effort")
        return replace(wanted, options=replace(options, think=None, ignored=ignored))


async def _answered(
    request: Request, opening: Coroutine[Any, Any, Reply], answer: Answer, *, stream: bool
) -> Response:
    if stream:
        return streamed(await opened_soon(request, opening), answer)
    return await unless_gone(request, at_once(opening, answer))


def _json(value: dict[str, object]) -> Response:
    return Response(encoded(value), media_type="application/json")
