"""Models that come and go: ``/api/pull``, ``/api/create``, ``/api/blobs``, ``/api/copy``, ``/api/delete``."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from server.api.bodies import Lenient, documented, parse
from server.api.http import LineStream, read_body, unless_gone
from server.api.ollama.wire import NDJSON, NamedBody, error_line, line
from server.api.options import INTEGERS, read_options
from server.catalogue import Parameters, Recipe
from server.catalogue.installing import Progress
from server.catalogue.records import Example
from server.domain.errors import InvalidRequest, NotSupported, RequestCancelled
from server.service.models import Creation
from server.service.service import Service

PIECE_BYTES = 2**20

_ELSEWHERE = "it belongs to Ollama's own service; this one runs on this machine alone"
_REFUSED: Mapping[str, str] = {
    "/api/push": f"push is not supported: {_ELSEWHERE}",
    "/api/me": f"accounts are not supported: {_ELSEWHERE}",
    "/api/signout": f"accounts are not supported: {_ELSEWHERE}",
}


def manage_router(service: Service) -> APIRouter:
    """All of them, and clear errors for those of Ollama's cloud."""
    router = APIRouter()
    routes = _Routes(service)
    for method, path, answer, body in (
        ("POST", "/api/pull", routes.pull, _Named),
        ("POST", "/api/create", routes.create, _CreateBody),
        ("POST", "/api/copy", routes.copy, _CopyBody),
        ("DELETE", "/api/delete", routes.delete, _Named),
    ):
        router.add_api_route(path, answer, methods=[method], openapi_extra=documented(body))
    router.add_api_route("/api/blobs/{digest}", routes.has_blob, methods=["HEAD"])
    router.add_api_route("/api/blobs/{digest}", routes.take_blob, methods=["POST"])
    router.add_api_route("/api/status", _status, methods=["GET"])
    for path in _REFUSED:
        # One by one: operations of one route would get the same id in the OpenAPI document.
        for method in ("GET", "POST"):
            router.add_api_route(path, _refuse, methods=[method])
    return router


class _Named(NamedBody):
    stream: bool = True


class _CopyBody(Lenient):
    source: str = ""
    destination: str = ""


class _CreateBody(_Named):
    base: str = Field(default="", alias="from")
    files: dict[str, str] = Field(default_factory=dict)
    adapters: dict[str, str] = Field(default_factory=dict)
    template: str = ""
    system: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    messages: list[Example] = Field(default_factory=list)
    license: Any = None
    quantize: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""

    def to_service(self) -> Creation:
        """Raises InvalidRequest."""
        for field, remedy in (
            ("adapters", "merge the adapter into the model first"),
            ("quantize", "upload a GGUF that has the quantisation already"),
        ):
            if getattr(self, field):
                raise InvalidRequest(f"{field} is not supported: {remedy}")
        options = read_options(self.parameters)
        unused = (name for name in ("renderer", "parser", "requires") if getattr(self, name))
        return Creation(
            name=self.wanted,
            base=self.base or None,
            files=self.files,
            recipe=Recipe(
                parameters=_parameters(self.parameters),
                system=self.system,
                messages=tuple(self.messages),
                license=_licenses(self.license),
            ),
            template=self.template or None,
            ignored=(*options.ignored, *unused),
        )


class _Routes:
    def __init__(self, service: Service) -> None:
        self._models = service.models

    async def pull(self, request: Request) -> Response:
        body = await read_body(request, _Named)
        follower = self._models.pulls.start(body.wanted)
        return await _told(request, follower.progress(), follower.aclose, stream=body.stream)

    async def create(self, request: Request) -> Response:
        body = await read_body(request, _CreateBody)
        steps = await self._models.create(body.to_service())
        return await _told(request, steps, steps.aclose, stream=body.stream)

    async def copy(self, request: Request) -> Response:
        body = await read_body(request, _CopyBody)
        await self._models.copy(body.source, body.destination)
        return Response()

    async def delete(self, request: Request) -> Response:
        body = await read_body(request, _Named)
        if not body.wanted:
            raise InvalidRequest("model is required")
        await self._models.delete(body.wanted)
        return Response()

    def has_blob(self, digest: str) -> Response:
        return Response(status_code=200 if self._models.has_blob(digest) else 404)

    async def take_blob(self, request: Request, digest: str) -> Response:
        known = self._models.has_blob(digest)
        try:
            if known:
                # A client that is not heard out takes the answer for a broken connection.
                async for _ in request.stream():
                    pass
                return Response(status_code=200)
            await self._receive(request, digest)
        except ClientDisconnect as error:
            raise RequestCancelled from error
        return Response(status_code=201)

    async def _receive(self, request: Request, digest: str) -> None:
        waiting = bytearray()
        with self._models.receive(digest) as upload:
            async for piece in request.stream():
                waiting += piece
                if len(waiting) >= PIECE_BYTES:
                    await asyncio.to_thread(upload.write, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(upload.write, bytes(waiting))
            upload.finish()


def _status() -> Response:
    return JSONResponse({"cloud": {"disabled": True, "source": "config"}})


def _refuse(request: Request) -> Response:
    raise NotSupported(_REFUSED[request.url.path])


async def _told(
    request: Request,
    steps: AsyncGenerator[Progress, None],
    close: Callable[[], Awaitable[None]],
    *,
    stream: bool,
) -> Response:
    """The steps as lines, or the last of them as one object."""
    if not stream:
        return JSONResponse(await unless_gone(request, _last(steps, close)))
    lines = _Lines()
    return LineStream(
        lines.of(steps),
        heartbeat=lambda: lines.latest,
        last_words=error_line,
        close=close,
        media_type=NDJSON,
        headers={},
    )


class _Lines:
    """A line for each step; the latest is told again where nothing else happens for long."""

    def __init__(self) -> None:
        self.latest = line(_told_of(Progress("waiting")))

    async def of(self, steps: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
        async for step in steps:
            self.latest = line(_told_of(step))
            yield self.latest


async def _last(
    steps: AsyncGenerator[Progress, None], close: Callable[[], Awaitable[None]]
) -> dict[str, Any]:
    last: dict[str, Any] = {}
    try:
        async for step in steps:
            last = _told_of(step)
    finally:
        await close()
    return last


def _told_of(step: Progress) -> dict[str, Any]:
    """Figures of zero are left out, as in Ollama."""
    figures = {"digest": step.digest, "total": step.total_bytes, "completed": step.completed_bytes}
    return {"status": step.status, **{name: value for name, value in figures.items() if value}}


def _parameters(given: Mapping[str, Any]) -> Parameters:
    """Values that :func:`read_options` has found right; numbers come in Go's ways of writing them."""
    plain = {name: _plain(name, value) for name, value in given.items() if value is not None}
    return parse(Parameters, plain)


def _plain(name: str, value: Any) -> Any:
    if name == "stop":
        return [value] if isinstance(value, str) else value
    return int(value) if name in INTEGERS else value


def _licenses(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("license must be a text or a list of texts")
    return tuple(text for text in texts if text)
