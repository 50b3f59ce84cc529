"""What every dialect needs of HTTP: lenient JSON bodies, streams that notice a hang-up."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import anyio
from anyio.abc import TaskGroup
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.accounting import account_of
from server.api.packed import unpacked
from server.domain.account import Account
from server.domain.chat import ChatRequest, Policy
from server.domain.errors import (
    InvalidRequest,
    ModelNotFound,
    NotSupported,
    QueueFull,
    RequestCancelled,
    ServiceError,
    Unloaded,
)
from server.service.reply import Reply, late_reply

logger = logging.getLogger("llm-optimizer")

T = TypeVar("T")

HEARTBEAT_S = 10.0
"""Clients and proxies give a silent connection up after 30 s and more."""

PATIENCE_S = 0.8
"""So long a stream waits for its reply before it begins without it."""

DEEPEST_JSON = 200
"""Far beyond any JSON schema, and far below where Python's recursion ends."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

EVENT_STREAM = "text/event-stream"

POLICY_HEADER = "X-LLM-Optimizer-Policy"
"""By what rules a chat wants to be routed."""

STATUSES: Mapping[type[ServiceError], int] = {
    InvalidRequest: 400,
    ModelNotFound: 404,
    QueueFull: 503,
    Unloaded: 503,
    RequestCancelled: 499,
    NotSupported: 501,
}


def status_of(error: ServiceError) -> int:
    """The HTTP status of an error; 500 for what is the server's own trouble."""
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)


async def read_json(request: Request) -> dict[str, Any]:
    """The body as JSON, whatever the Content-Type says.

    Raises:
        InvalidRequest: with what is wrong.
        RequestCancelled: the client hung up before its end.
    """
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise RequestCancelled from error
    return parsed_json(unpacked(body, request.headers.get("content-encoding", "")))


def parsed_json(body: bytes) -> dict[str, Any]:
    """The first JSON value of ``body``, which must be an object.

    Raises:
        InvalidRequest: with what is wrong.
    """
    if not body.strip():
        raise InvalidRequest("missing request body")
    try:
        text = body.decode("utf-8-sig").lstrip()
        value, _ = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text)
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the request body is not UTF-8: {error.reason} at byte {error.start}"
        ) from error
    except RecursionError as error:
        raise InvalidRequest("the request body is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the request body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the request body must be a JSON object")
    _refuse_deep(value)
    return _without_half_characters(value) if _SURROGATE.search(text) else value


def _refuse_deep(value: dict[str, Any]) -> None:
    """Whatever walks through the value later may then do so recursively."""
    level: list[Any] = [value]
    for _ in range(DEEPEST_JSON):
        level = [item for holder in level for item in _items(holder) if isinstance(item, dict | list)]
        if not level:
            return
    raise InvalidRequest("the request body is nested too deeply")


def _items(holder: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return holder.values() if isinstance(holder, dict) else holder


def _without_half_characters(value: Any) -> Any:
    """Halves of surrogate pairs become U+FFFD, as in Go: no encoder takes them, ours neither."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def as_asked(wanted: ChatRequest, request: Request) -> ChatRequest:
    """A chat with its account, and the policy that its headers ask for.

    Raises:
        InvalidRequest: there is no such policy.
    """
    name = request.headers.get(POLICY_HEADER)
    if name is not None and name not in set(Policy):
        known = ", ".join(Policy)
        raise InvalidRequest(f'{POLICY_HEADER} must be one of {known}, but it is "{name}"')
    return replace(wanted, account=account_of(request.scope), policy=Policy(name) if name else None)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for ``work``, but stop it when the client hangs up.

    Raises:
        RequestCancelled: it hung up.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_gone(request.receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestCancelled
        return await working
    finally:
        for task in (working, watching):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ServiceError):
            await working


async def opened_soon(request: Request, opening: Coroutine[Any, Any, Reply]) -> Reply:
    """The reply that ``opening`` gives, or where that takes long (the model is being loaded) one that can
    be streamed meanwhile: then its errors can be no statuses any more.

    Raises:
        ServiceError: of ``opening``, or RequestCancelled: the client hung up.
    """
    under_way = asyncio.ensure_future(opening)
    watching = asyncio.ensure_future(_until_gone(request.receive))
    reply = late_reply(under_way)
    try:
        await asyncio.wait({under_way, watching}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        return await _soonest(under_way, watching, reply)
    except BaseException:
        await reply.aclose()
        raise
    finally:
        watching.cancel()


async def _soonest(under_way: asyncio.Task[Reply], watching: asyncio.Task[None], late: Reply) -> Reply:
    if under_way.done():
        return await under_way
    if watching.done():
        raise RequestCancelled
    return late


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class LineStream(Response):
    """A streamed response of lines. The status and headers go out at once.

    While no line comes, ``heartbeat`` makes one every HEARTBEAT_S. ``last_words`` turns an error
    into the line that ends the stream. ``close`` is called in the end, whatever happened.
    """

    def __init__(
        self,
        lines: AsyncGenerator[bytes, None],
        *,
        heartbeat: Callable[[], bytes],
        last_words: Callable[[ServiceError], bytes],
        close: Callable[[], Awaitable[None]],
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(None, headers=dict(headers), media_type=media_type)
        del self.headers["content-length"]
        self._lines = lines
        self._heartbeat = heartbeat
        self._last_words = last_words
        self._close = close
        self._account = Account()
        self._last_sent_s = 0.0
        self._sending = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client hangs up."""
        self._account = account_of(scope)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._cancel_when_gone, receive, group.cancel_scope)
                await self._send_all(send, group)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._lines.aclose()
                await self._close()

    async def _cancel_when_gone(self, receive: Receive, scope: anyio.CancelScope) -> None:
        await _until_gone(receive)
        scope.cancel()

    async def _send_all(self, send: Send, group: TaskGroup) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._last_sent_s = asyncio.get_running_loop().time()
        group.start_soon(self._break_silence, send)
        try:
            async for line in self._lines:
                await self._send_line(send, line)
        except ServiceError as error:
            await self._send_error(send, error)
        except Exception:
            logger.exception("a stream broke")
            trouble = ServiceError("internal error; the server's log has the details")
            await self._send_error(send, trouble)
        async with self._sending:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_error(self, send: Send, error: ServiceError) -> None:
        self._account.error = error
        await self._send_line(send, self._last_words(error))

    async def _send_line(self, send: Send, line: bytes) -> None:
        self._last_sent_s = asyncio.get_running_loop().time()
        async with self._sending:
            await send({"type": "http.response.body", "body": line, "more_body": True})

    async def _break_silence(self, send: Send) -> None:
        """A task of its own, so that lines need no timer each."""
        loop = asyncio.get_running_loop()
        while True:
            silent_s = loop.time() - self._last_sent_s
            if silent_s < HEARTBEAT_S:
                await asyncio.sleep(HEARTBEAT_S - silent_s)
            else:
                await self._send_line(send, self._heartbeat())
