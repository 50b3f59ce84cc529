"""``/api/embed``, and ``/api/embeddings`` that came before it."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from server.api.bodies import Lenient, documented, encoded
from server.api.http import of_caller, read_body, unless_gone
from server.api.options import read_keep_alive, read_options
from server.domain.chat import EmbeddingRequest, RunOptions
from server.domain.errors import InvalidRequest, ModelNotFound
from server.service.embedding import Embedded
from server.service.service import Service


def embeddings_router(service: Service) -> APIRouter:
    """Both routes."""
    router = APIRouter()
    routes = _Routes(service)
    for path, answer, body in (
        ("/api/embed", routes.embed, _EmbedBody),
        ("/api/embeddings", routes.embeddings, _EmbeddingsBody),
    ):
        router.add_api_route(path, answer, methods=["POST"], openapi_extra=documented(body))
    return router


class _Body(Lenient):
    model: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    keep_alive: Any = None

    def run_options(self) -> RunOptions:
        return replace(read_options(self.options), keep_alive_s=read_keep_alive(self.keep_alive))


class _EmbedBody(_Body):
    input: Any = None
    truncate: bool = True
    dimensions: int = Field(default=0, ge=0)

    def to_domain(self) -> EmbeddingRequest:
        return EmbeddingRequest(
            self.model,
            read_texts(self.input),
            dimensions=self.dimensions or None,
            truncate=self.truncate,
            options=self.run_options(),
        )


class _EmbeddingsBody(_Body):
    prompt: str = ""

    def to_domain(self) -> EmbeddingRequest:
        texts = (self.prompt,) if self.prompt else ()
        return EmbeddingRequest(self.model, texts, options=self.run_options(), route="/api/embeddings")


def read_texts(value: Any) -> tuple[str, ...]:
    """One text, or a list of them; nothing and an empty text are none.

    Raises:
        InvalidRequest: ``invalid input type``.
    """
    if value is None or value == "":
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("invalid input type")
    return tuple(texts)


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def embed(self, request: Request) -> Response:
        body = await read_body(request, _EmbedBody)
        wanted = body.to_domain()
        if not body.model:
            raise ModelNotFound("")
        done = await self._embedded(request, wanted)
        vectors = [vector.tolist() for vector in done.vectors]
        figures = {
            "total_duration": done.total_ns,
            "load_duration": done.load_ns,
            "prompt_eval_count": done.prompt_tokens,
        }
        return _answer({"model": body.model, "embeddings": vectors, **(figures if vectors else {})})

    async def embeddings(self, request: Request) -> Response:
        body = await read_body(request, _EmbeddingsBody)
        if not body.model:
            raise InvalidRequest("model is required")
        done = await self._embedded(request, body.to_domain())
        return _answer({"embedding": done.vectors[0].tolist() if done.vectors else []})

    async def _embedded(self, request: Request, wanted: EmbeddingRequest) -> Embedded:
        return await unless_gone(request, self._service.embed(of_caller(wanted, request)))


def _answer(value: dict[str, Any]) -> Response:
    return Response(encoded(value), media_type="application/json")
