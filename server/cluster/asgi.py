"""Asks an ASGI application within this process, as a web server would."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from starlette.types import ASGIApp, Message, Scope

from server.cluster.wire import Asked, Head, Piece

logger = logging.getLogger("llm-optimizer")

_MOST_WAITING = 64
"""So many messages wait for whoever reads them; then the application does."""

_END_S = 10.0
"""Long enough for an application to notice that its client is gone."""


def scope_of(asked: Asked) -> Scope:
    """The request as ASGI has it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": asked.query,
        "root_path": "",
        "headers": [list(header) for header in asked.headers],
        "client": asked.client,
        "server": None,
        "scheme": asked.scheme,
        "state": {},
    }


async def answer_of(app: ASGIApp, asked: Asked) -> AsyncGenerator[Head | Piece, None]:
    """What ``app`` answers. Whoever closes the generator before its end hangs up.

    Raises whatever the application raises before its answer is complete; later it is logged only.
    """
    call = _Call(app, asked)
    try:
        async for message in call.messages():
            if message["type"] == "http.response.start":
                yield Head(message["status"], tuple((bytes(n), bytes(v)) for n, v in message["headers"]))
            elif message.get("body"):
                yield Piece(bytes(message["body"]))
    finally:
        await call.end()


class _Call:
    """One request under way, on a task of its own: the application may have its own ideas of scopes."""

    def __init__(self, app: ASGIApp, asked: Asked) -> None:
        self._gone = asyncio.Event()
        self._given = False
        self._whole = False
        self._body = asked.body
        self._sent: asyncio.Queue[Message | None] = asyncio.Queue(_MOST_WAITING)
        self._task = asyncio.create_task(self._run(app, scope_of(asked)))

    async def messages(self) -> AsyncGenerator[Message, None]:
        """All of the response, and the application's own error, if it ends by one."""
        while (message := await self._sent.get()) is not None:
            yield message
        try:
            await self._task
        except Exception:
            if not self._whole:
                raise
            # The application has told its client of it in the answer.
            logger.exception("a request ended by a bug")

    async def end(self) -> None:
        """The client is gone, if the application has not ended yet."""
        self._gone.set()
        # Whoever waits for room would wait for ever.
        while not self._sent.empty():
            self._sent.get_nowait()
        done, _ = await asyncio.wait({self._task}, timeout=_END_S)
        if not done:
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            if not self._gone.is_set():
                await self._sent.put(None)

    async def _receive(self) -> Message:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self._whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not self._gone.is_set():
            await self._sent.put(message)
