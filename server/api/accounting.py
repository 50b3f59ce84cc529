"""Opens an account for each request, and closes it in whichever way the request ends."""

import asyncio
import re
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.domain.account import Account, Ending, Visit
from server.domain.errors import (
    DeviceShort,
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    NotAllowed,
    NotSupported,
    PromptTooLong,
    QueueFull,
    RemoteAway,
    RequestCancelled,
    ServiceError,
    Unloaded,
)
from server.domain.generation import FinishReason
from server.service.ledger import Ledger

_LONGEST_PATH = 200
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

_OF_ERRORS: tuple[tuple[type[ServiceError], Ending], ...] = (
    (PromptTooLong, Ending.TOO_LONG),
    (InvalidRequest, Ending.INVALID),
    (NotAllowed, Ending.REFUSED),
    (ModelNotFound, Ending.NOT_FOUND),
    (NotSupported, Ending.NOT_SUPPORTED),
    (DeviceShort, Ending.MEMORY_SHORT),
    (QueueFull, Ending.QUEUE_FULL),
    (ModelLoadFailed, Ending.LOAD_FAILED),
    (EngineFailed, Ending.ENGINE_FAILED),
    (RemoteAway, Ending.UNAVAILABLE),
    (RequestCancelled, Ending.STOPPED),
    (Unloaded, Ending.STOPPED),
)
"""The narrower kinds stand before the wider ones."""

_OF_STATUSES = {
    404: Ending.NOT_FOUND,
    401: Ending.REFUSED,
    403: Ending.REFUSED,
    429: Ending.LIMITED,
    501: Ending.NOT_SUPPORTED,
    503: Ending.UNAVAILABLE,
}


def account_of(scope: Scope) -> Account:
    """The account that was opened for a request."""
    account: Account = scope["state"]["account"]
    return account


def ending_of(account: Account, status: int | None, *, gone: bool, stopped: bool, whole: bool) -> Ending:
    """How a request ended.

    ``gone``: its client hung up before the end; ``stopped``: the service broke it off; ``whole``: all of the
    answer was handed over.
    """
    if gone:
        return Ending.CANCELLED
    if account.error is not None:
        return next(
            (ending for kind, ending in _OF_ERRORS if isinstance(account.error, kind)), Ending.INTERNAL
        )
    if stopped:
        return Ending.STOPPED
    if status is None or not whole:
        return Ending.INTERNAL
    if status >= 400:  # noqa: PLR2004
        return _OF_STATUSES.get(status, Ending.INTERNAL if status >= 500 else Ending.INVALID)  # noqa: PLR2004
    return Ending.LENGTH if account.work.finish == FinishReason.LENGTH else Ending.OK


class Accounting:
    """The outermost middleware: nothing comes or goes past it."""

    def __init__(self, app: ASGIApp, *, ledger: Ledger) -> None:
        self._app = app
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, and see how it ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account = self._ledger.open(_visit(scope))
        scope.setdefault("state", {})["account"] = account
        watch, stopped = _Watch(receive, send), False
        try:
            await self._app(scope, watch.receive, watch.send)
        except asyncio.CancelledError:
            stopped = True
            raise
        finally:
            ending = ending_of(account, watch.status, gone=watch.gone, stopped=stopped, whole=watch.whole)
            self._ledger.close(account, _template(scope), watch.status, ending)


def _visit(scope: Scope) -> Visit:
    given = Headers(scope=scope).get("x-request-id", "")
    chosen = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"
    client = scope.get("client")
    return Visit(chosen, scope["method"], scope["path"][:_LONGEST_PATH], client[0] if client else None)


def _template(scope: Scope) -> str | None:
    """The path as its route has it, so that it is one of a few; None: no route took it."""
    return getattr(scope.get("route"), "path", None)


class _Watch:
    """Both directions of a request: what status went out, whether all did, and whether the client hung up."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.status: int | None = None
        self.whole = False
        self.gone = False

    async def receive(self) -> Message:
        """Pass on what comes. After the whole answer a disconnect is how things end."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.whole:
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass on what goes."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.whole = True
