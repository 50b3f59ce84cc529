"""Keeps a copy of each request to a model, as it came, where the settings ask for it."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.access import caller_of
from server.api.accounting import account_of
from server.api.jsontext import parsed_json
from server.api.packed import unpacked
from server.domain.account import Visit
from server.domain.errors import InvalidRequest
from server.service.captures import Captures, blanked_body, blanked_headers, blanked_text

CAPTURED = frozenset(
    {
        *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"),
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"),
        *("/v1/messages", "/v1/messages/count_tokens"),
    }
)
"""Requests with prompts: uploads and the like are not kept."""


class Capturing:
    """Middleware: listens to the body, and writes the request down before it is answered: it may be the one
    that ends the service."""

    def __init__(self, app: ASGIApp, *, captures: Captures) -> None:
        self._app = app
        self._captures = captures
        self._writing: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, and keep it."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in CAPTURED:
            await self._app(scope, receive, send)
            return
        heard = _Heard(receive, lambda body: self._write(scope, body), caller_of(scope).body_bytes)
        await self._app(scope, heard.receive, send)

    def _write(self, scope: Scope, body: bytes) -> None:
        """The client does not wait for the disk."""
        visit, most_bytes = account_of(scope).visit, caller_of(scope).body_bytes
        headers = Headers(scope=scope)
        writing = asyncio.to_thread(self._add, scope["path"], headers, body, most_bytes, visit)
        task = asyncio.create_task(writing)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _add(self, path: str, headers: Headers, body: bytes, most_bytes: int, visit: Visit) -> None:
        captured = {
            "method": "POST",
            "path": path,
            "headers": blanked_headers(headers.items()),
            "body": _readable(body, headers.get("content-encoding", ""), most_bytes),
            "id": visit.id,
            "at": visit.arrived_at.isoformat(),
        }
        self._captures.add(visit.arrived_at, visit.id, captured)


def _readable(body: bytes, encoding: str, most_bytes: int) -> Any:
    """The body as JSON, or as text where it is none."""
    try:
        return blanked_body(parsed_json(unpacked(body, encoding, most_bytes)))
    except InvalidRequest:
        return blanked_text(body.decode("utf-8", "replace"))


class _Heard:
    """The body that passes by. ``complete`` gets it, unless it has more than its sender may send."""

    def __init__(self, receive: Receive, complete: Callable[[bytes], None], most_bytes: int) -> None:
        self._receive = receive
        self._complete = complete
        self._most_bytes = most_bytes
        self._body = bytearray()
        self._ended = False

    async def receive(self) -> Message:
        """Pass on what comes."""
        message = await self._receive()
        if message["type"] == "http.request" and not self._ended:
            self._hear(message)
        return message

    def _hear(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if len(self._body) > self._most_bytes:
            self._ended = True
        elif not message.get("more_body", False):
            self._ended = True
            self._complete(bytes(self._body))
        if self._ended:
            self._body.clear()
