"""Wires the objects together."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from server import __version__
from server.api.access import Access
from server.api.accounting import Accounting, account_of
from server.api.anthropic.errors import anthropic_refusal
from server.api.anthropic.routes import anthropic_router
from server.api.capturing import Capturing
from server.api.draining import Draining
from server.api.guards import RETRY_AFTER_S, Guard, request_id
from server.api.health import gpu_health, health_router
from server.api.http import status_of
from server.api.metrics import metrics_router
from server.api.ollama.routes import ollama_router
from server.api.ollama.texts import texts_router
from server.api.openai.errors import openai_refusal
from server.api.openai.routes import openai_router
from server.api.pages.feed import Feed
from server.api.pages.routes import pages_router
from server.api.router import router_router
from server.catalogue import Catalogue
from server.config import Current, Settings
from server.domain.errors import BodyTooLarge, QueueFull, RemoteAway, ServiceError, Unloaded
from server.engine.llamacpp.library import Library
from server.gpu.nvml import open_nvml
from server.routing.memory import Summaries
from server.service.captures import Captures
from server.service.cards import with_cuda_numbers
from server.service.crashes import Crashes, crash_folder
from server.service.fleet import Fleet
from server.service.loading import DiskCache
from server.service.placement import MIB
from server.service.service import Service
from server.sockets import is_loopback

if TYPE_CHECKING:
    from server.service.rpc import Rpc

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build_service(settings: Settings) -> Service:
    """Everything below HTTP, nothing loaded yet."""
    library, nvml = Library(), open_nvml()
    current = Current(settings)
    settings = with_cuda_numbers(settings, library, nvml)
    catalogue, crashes = Catalogue(settings), Crashes(crash_folder(settings.cache_dir))
    fleet = Fleet(
        catalogue,
        library,
        nvml,
        current=current,
        disk_cache=DiskCache(settings.cache_dir, settings.disk_cache_mib * MIB),
        crashes=crashes,
        rpc=_rpc(settings, crashes),
    )
    summaries = Summaries(settings.cache_dir, settings.router.summaries_mib * MIB)
    return Service(fleet, catalogue, current, summaries)


def _rpc(settings: Settings, crashes: Crashes) -> "Rpc | None":
    """What is needed where several devices share a model, and loaded only there."""
    if not settings.has_split_models:
        return None
    from server.service.rpc import Rpc  # noqa: PLC0415

    return Rpc(crash_folder(settings.cache_dir), crashes)


def build_app(service: Service, settings: Settings, access: Access, lifespan: Lifespan) -> FastAPI:
    """The HTTP application over a service, for those whom ``access`` lets in; ``lifespan`` starts and stops
    what it needs."""
    app = FastAPI(
        title="llm-optimizer", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.include_router(ollama_router(service))
    app.include_router(openai_router(service))
    app.include_router(texts_router(service))
    app.include_router(anthropic_router(service))
    app.include_router(router_router(service))
    app.include_router(health_router(service))
    app.include_router(pages_router(Feed(lambda: gpu_health(service), service.ledger, service.recent)))
    app.include_router(metrics_router(service))
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    if settings.capture_dir is not None:
        captures = Captures(settings.capture_dir, settings.capture_mib * MIB)
        app.add_middleware(Capturing, captures=captures)
    app.add_middleware(Draining, drain=service.drain, refusal=refusal)
    app.add_middleware(
        Guard,
        origins=settings.origins,
        check_host=all(is_loopback(host) for host, _ in settings.addresses),
        access=access,
        refusal=refusal,
    )
    # Last, so that it is the outermost.
    app.add_middleware(Accounting, ledger=service.ledger)
    return app


def _on_service_error(request: Request, error: Exception) -> Response:
    status = status_of(error) if isinstance(error, ServiceError) else 500
    if isinstance(error, ServiceError):
        account_of(request.scope).error = error
    answer = refusal(request.scope, status, str(error), error if isinstance(error, ServiceError) else None)
    if isinstance(error, BodyTooLarge):
        # Nobody knows how much of it is still to come.
        answer.headers["connection"] = "close"
    if isinstance(error, QueueFull | RemoteAway | Unloaded):
        answer.headers["retry-after"] = RETRY_AFTER_S
    return answer


def _on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: f"{request.url.path} not found", 405: f"{request.method} is not allowed here"}
    answer = refusal(request.scope, status, words.get(status, str(error)))
    if isinstance(error, HTTPException) and error.headers:
        answer.headers.update(error.headers)
    return answer


def refusal(scope: Scope, status: int, text: str, cause: ServiceError | None = None) -> Response:
    """An error in the dialect that the request's path belongs to."""
    path = str(scope["path"])
    if path.startswith("/v1/messages"):
        return anthropic_refusal(status, text, request_id(scope))
    if path.startswith("/v1/"):
        return openai_refusal(status, text, cause)
    return JSONResponse({"error": text}, status_code=status)
