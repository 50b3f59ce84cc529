"""A service that stops: new requests are refused in their dialect's words, those under way go on."""

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.guards import Refusal
from server.domain.errors import Stopping
from server.service.drain import Drain

RETRY_AFTER_S = "5"
"""A restart takes some seconds."""

_ONLY_LOOKING = ("GET", "HEAD", "OPTIONS")
_NOT_WAITED_FOR = ("/api/pull",)
"""A download goes on where it stopped: its end is told to the client, and need not be awaited."""


class Draining:
    """Middleware: counts answers, and refuses new ones once the service is stopping.

    Who only looks is still answered, so that one sees that it is stopping, and how far.
    """

    def __init__(self, app: ASGIApp, *, drain: Drain, refusal: Refusal) -> None:
        self._app = app
        self._drain = drain
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] in _ONLY_LOOKING:
            await self._look_on(scope, receive, send)
        elif self._drain.begun:
            await self._refused(scope)(scope, receive, send)
        elif scope["path"] in _NOT_WAITED_FOR:
            await self._app(scope, receive, send)
        else:
            with self._drain.answer():
                await self._app(scope, receive, send)

    async def _look_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = _Sending(send)
        with self._drain.watch() as cut:
            await self._app(scope, receive, sending)
        if not cut.cancelled_caught or sending.ended:
            return
        if sending.started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._refused(scope)(scope, receive, send)

    def _refused(self, scope: Scope) -> Response:
        answer = self._refusal(scope, 503, str(Stopping()))
        # A connection that is kept would lead to the service that stops.
        answer.headers.update({"retry-after": RETRY_AFTER_S, "connection": "close"})
        return answer


class _Sending:
    """Notes how far a response has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.ended = False

    async def __call__(self, message: Message) -> None:
        self.started = True
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)
