"""What stands before the replicas: reads requests, sends them on and their answers back.

It knows the replicas through :class:`Replicas` only. It holds a body until its answer has begun, so that a
request whose replica is lost before that goes to another one.
"""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.api.http import status_of
from server.api.jsontext import parsed_json
from server.api.ollama.wire import NDJSON, line
from server.api.packed import unpacked
from server.app import refusal
from server.cluster.beginnings import beginnings_of
from server.cluster.endings import LOST, last_words
from server.cluster.merging import failed, together, worst
from server.cluster.reach import UPLOADS, Reach, reach_of
from server.cluster.terms import Terms
from server.cluster.wire import Asked, Head, NobodyThere, Piece, ReplicaLost, Said, Taken, Whole
from server.domain.account import Account, Visit
from server.domain.errors import BodyTooLarge, NotSupported, ServiceError, Stopping

logger = logging.getLogger("llm-optimizer.cluster")

MIB = 2**20
TOGETHER_S = 10.0
"""So long all replicas have for an answer that is made of theirs."""

PROGRESS_S = 2.0
RETRY_AFTER_S = b"5"
REPLICA_HEADER = b"x-llm-optimizer-replica"
_LARGE_BYTES = 2**17


class Replicas(Protocol):
    """All machines' services."""

    def ask(self, asked: Asked) -> AsyncGenerator[Said, None]:
        """What one of them answers; :class:`Taken` comes first. Who closes the generator hangs up.

        Raises:
            ReplicaLost: it is gone. NobodyThere: there is none.
        """

    async def ask_all(self, asked: Asked, limit_s: float | None) -> list[Whole]:
        """What all of them answer, at least one.

        Raises:
            ReplicaLost: one is gone, or has not answered within ``limit_s``. NobodyThere: there is none.
        """


class Unavailable(ServiceError):
    """No replica can be asked at the moment."""


class Ingress:
    """An ASGI application."""

    def __init__(self, replicas: Replicas, terms: Terms, *, knows_clients: bool = True) -> None:
        """``knows_clients``: the addresses that requests come from are their clients'."""
        self._replicas = replicas
        self._terms = terms
        self._knows_clients = knows_clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return
        name = _request_id(scope)
        scope = {**scope, "state": {"account": Account(Visit(id=name))}}
        sending = _Sending(send)
        try:
            await self._answer(scope, receive, sending, name)
        except ClientDisconnect:
            logger.info("%s %s: the client hung up", name, scope["path"])
        except ServiceError as error:
            await _refuse(scope, receive, sending, error)

    async def _answer(self, scope: Scope, receive: Receive, sending: "_Sending", name: str) -> None:
        most_bytes = self._terms.body_mib * MIB
        if scope["path"].startswith(UPLOADS):
            raise NotSupported(
                "model files are not uploaded through a cluster: put the file onto each machine, or pull it"
            )
        asked, body = await _read(scope, receive, most_bytes, name)
        if not self._knows_clients:
            # A proxy on this machine must not pass for a client on it, who may change models.
            asked = replace(asked, client=None)
        match reach_of(asked.method, asked.path, body):
            case Reach.ONE:
                await self._by_one(asked, _Client(receive), sending)
            case Reach.TOGETHER:
                wholes = await self._from_all(asked, TOGETHER_S)
                await sending.whole(together(asked.path, wholes), asked.method)
            case Reach.EVERY:
                await self._by_every(asked, body, sending)

    async def _by_one(self, asked: Asked, client: "_Client", sending: "_Sending") -> None:
        answering = asyncio.ensure_future(self._relayed(asked, sending))
        hanging_up = asyncio.ensure_future(client.gone())
        try:
            await asyncio.wait({answering, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                logger.info("%s: the client hung up", asked.path)
                return
            await answering
        finally:
            for task in (answering, hanging_up):
                task.cancel()
            await asyncio.gather(answering, hanging_up, return_exceptions=True)

    async def _relayed(self, asked: Asked, sending: "_Sending") -> None:
        """Send the request to one replica after the other until one begins to answer."""
        for attempt in range(1, self._terms.attempts + 1):
            try:
                await self._relayed_once(asked, sending)
            except ReplicaLost as error:
                logger.warning("attempt %d of %s: a replica is lost: %s", attempt, asked.path, error)
                if sending.is_complete:
                    # It went after its last word, and before the end was told.
                    await sending.end()
                    return
                if sending.started:
                    await sending.broken_off(asked.path, asked.header(b"x-request-id"))
                    return
            except NobodyThere as error:
                raise Unavailable(f"no machine can be asked: {error}") from error
            else:
                return
        raise Unavailable(f"{self._terms.attempts} machines were lost with this request; try again")

    async def _relayed_once(self, asked: Asked, sending: "_Sending") -> None:
        async with contextlib.aclosing(self._replicas.ask(asked)) as said:
            taken = await self._taken(said)
            async for one in said:
                if isinstance(one, Head):
                    sending.holds(_marked(one, taken.replica))
                elif isinstance(one, Piece):
                    await sending.piece(one.body)
            await sending.end()

    async def _taken(self, said: AsyncGenerator[Said, None]) -> Taken:
        try:
            first = await asyncio.wait_for(anext(said), self._terms.patience_s)
        except TimeoutError as error:
            raise Unavailable(
                f"no machine has taken the request within {self._terms.patience_s:g} s; all are busy or away"
            ) from error
        except StopAsyncIteration as error:
            raise ReplicaLost("its answer ended before it began") from error
        if not isinstance(first, Taken):
            raise ReplicaLost("its answer began without its name")
        return first

    async def _from_all(self, asked: Asked, limit_s: float | None) -> list[Whole]:
        """What all answer; the samples of metrics are read here, in the plain form."""
        asked = asked.with_header(b"accept", b"text/plain, application/json;q=0.9")
        if asked.method == "HEAD":
            asked = replace(asked, method="GET")
        try:
            return await self._replicas.ask_all(asked, limit_s)
        except NobodyThere as error:
            raise Unavailable(f"no machine can be asked: {error}") from error
        except ReplicaLost as error:
            raise Unavailable(f"not all machines have answered: {error}") from error

    async def _by_every(self, asked: Asked, body: Mapping[str, Any], sending: "_Sending") -> None:
        """Each machine does it, and the answer is the worst of theirs."""
        streams = asked.path == "/api/pull" and body.get("stream") is not False
        plain = asked.with_plain_body(json.dumps({**body, "stream": False}).encode()) if body else asked
        working = asyncio.ensure_future(self._from_all(plain, None))
        try:
            await asyncio.wait({working}, timeout=PROGRESS_S if streams else None)
            if working.done():
                await sending.whole(_worst_named(await working), asked.method)
            else:
                await _told(working, sending)
        finally:
            working.cancel()


def _length_of(head: Head) -> int | None:
    """What the head says of the body's length."""
    told = next((value for name, value in head.headers if name.lower() == b"content-length"), b"")
    return int(told) if told.isdigit() else None


def _worst_named(wholes: list[Whole]) -> Whole:
    for whole in failed(wholes):
        logger.warning("replica %s answers with status %d: %s", whole.replica, whole.status, whole.body[:500])
    return worst(wholes)


async def _told(working: "asyncio.Future[list[Whole]]", sending: "_Sending") -> None:
    """Progress as Ollama's clients read it: a line again and again, and what came of it in the last one."""
    sending.holds(Head(200, ((b"content-type", NDJSON.encode()),)))
    while not working.done():
        await sending.piece(line({"status": "pulling on all machines"}))
        await asyncio.wait({working}, timeout=PROGRESS_S)
    try:
        found = _worst_named(working.result())
    except ServiceError as error:
        await sending.piece(line({"error": str(error)}))
    else:
        await sending.piece(found.body.rstrip(b"\n") + b"\n")
    await sending.end()


async def _live(receive: Receive, send: Send) -> None:
    """Nothing is to be started, and nothing to be ended."""
    for part in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{part}.complete"})


async def _read(
    scope: Scope, receive: Receive, most_bytes: int, name: str
) -> tuple[Asked, Mapping[str, Any]]:
    request = Request(scope, receive)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise BodyTooLarge(most_bytes)
    asked = Asked(
        scope["method"],
        scope["path"],
        scope.get("query_string", b""),
        tuple((bytes(key).lower(), bytes(value)) for key, value in scope["headers"]),
        tuple(scope["client"]) if scope.get("client") else None,
        scope.get("scheme", "http"),
        bytes(body),
    ).with_header(b"x-request-id", name.encode())
    if len(body) > _LARGE_BYTES:
        return await asyncio.to_thread(_understood, asked, most_bytes)
    return _understood(asked, most_bytes)


def _understood(asked: Asked, most_bytes: int) -> tuple[Asked, Mapping[str, Any]]:
    """How it begins, and its JSON. What cannot be read is for a replica to complain of."""
    if not asked.body:
        return asked, {}
    try:
        body = parsed_json(unpacked(asked.body, asked.header(b"content-encoding"), most_bytes))
    except ServiceError:
        return asked, {}
    return replace(asked, begins=beginnings_of(asked.path, body)), body


def _request_id(scope: Scope) -> str:
    """The client's own, or a new one: all attempts have the same."""
    given = next((value for key, value in scope["headers"] if key.lower() == b"x-request-id"), b"")
    return given.decode("latin-1") or f"req_{secrets.token_hex(8)}"


def _marked(head: Head, replica: str) -> Head:
    # Ray's proxy writes the request's id itself, and the same one, for it has given it.
    kept = tuple(header for header in head.headers if header[0].lower() != b"x-request-id")
    return replace(head, headers=(*kept, (REPLICA_HEADER, replica.encode())))


async def _refuse(scope: Scope, receive: Receive, sending: "_Sending", error: ServiceError) -> None:
    """In the dialect that the path belongs to."""
    if sending.started:
        raise error
    status = 503 if isinstance(error, Unavailable | Stopping) else status_of(error)
    answer: Response = refusal(scope, status, str(error), error)
    if status == 503:  # noqa: PLR2004
        answer.headers["retry-after"] = RETRY_AFTER_S.decode()
    if isinstance(error, BodyTooLarge):
        answer.headers["connection"] = "close"
    await answer(scope, receive, sending.send)


class _Client:
    """Notices when the client hangs up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def gone(self) -> None:
        """Returns then."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class _Sending:
    """The way back. The head waits for the first piece, and where it tells the body's length, for all of it:
    until then nothing has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head = Head(500, ())
        self._held = False
        self._kept = bytearray()
        self._length: int | None = None
        self.started = self.is_complete = False

    def holds(self, head: Head) -> None:
        """The status and headers that the first piece goes out with."""
        self._head, self._held = head, True
        self._kept, self._length = bytearray(), _length_of(head)

    async def piece(self, body: bytes) -> None:
        """More of the body."""
        if self._length is not None and not self.started:
            self._kept += body
            self.is_complete = len(self._kept) >= self._length
            if not self.is_complete:
                return
            body, self._kept = bytes(self._kept), bytearray()
        await self._begin()
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """The whole answer has gone out.

        Raises:
            ReplicaLost: there was none.
        """
        if not self._held:
            raise ReplicaLost("its answer ended before it began")
        await self._begin()
        await self.send({"type": "http.response.body", "body": bytes(self._kept), "more_body": False})

    async def whole(self, whole: Whole, method: str) -> None:
        """An answer in one piece."""
        size = (b"content-length", str(len(whole.body)).encode())
        kept = tuple(header for header in whole.headers if header[0].lower() != b"content-length")
        self.holds(Head(whole.status, (*kept, size)))
        if method != "HEAD":
            await self.piece(whole.body)
        await self.end()

    async def broken_off(self, path: str, request_id: str) -> None:
        """Tell in the dialect's words that nothing more comes.

        Raises:
            Unavailable: an answer of this kind has no such words; the connection must break.
        """
        words = last_words(path, self._media_type(), request_id)
        if words is None:
            raise Unavailable(LOST)
        await self.piece(words)
        await self.end()

    async def send(self, message: Message) -> None:
        """Straight on."""
        self.started = True
        await self._send(message)

    async def _begin(self) -> None:
        if not self.started:
            headers = [list(header) for header in self._head.headers]
            await self.send({"type": "http.response.start", "status": self._head.status, "headers": headers})

    def _media_type(self) -> str:
        return Whole("", 0, self._head.headers, b"").media_type
