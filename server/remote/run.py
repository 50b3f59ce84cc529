"""An answer of a model that runs elsewhere, while it is under way."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2

from server.chat.parse import AnswerParser, Expected
from server.domain.chat import AnswerDelta, AnswerEnd
from server.domain.errors import RemoteFailed, ServiceError
from server.domain.generation import FinishReason, Usage
from server.remote.assembling import Calls
from server.remote.counting import estimated_of
from server.remote.faults import Trouble, of_connection, of_end, of_silence, of_status
from server.remote.spec import RemoteSpec
from server.remote.wire import Counted, Dialect, Piece

logger = logging.getLogger("llm-optimizer")

_FIRST_PAUSE_S = 0.25
_LONGEST_BODY = 20_000
_OK = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """What is sent, and what may come back. ``prompt_tokens`` is its size as far as it is known."""

    path: str
    body: dict[str, Any]
    dialect: Callable[[], Dialect]
    expected: Expected
    prompt_tokens: int


class Server(Protocol):
    """The other server, as a run sees it."""

    spec: RemoteSpec
    http: httpx2.AsyncClient

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold one of the slots, once one is free."""

    def check_worth(self) -> None:
        """Raise RemoteAway while it is left alone."""

    def begin(self) -> None:
        """A try begins."""

    def undecided(self) -> None:
        """A try was given up before it could tell anything."""

    def failed(self, trouble: Trouble) -> None:
        """A try has failed."""

    def answered(self) -> None:
        """A first word has come."""

    def ended(self, run: "RemoteRun") -> None:
        """A run has ended, in whichever way."""


class RemoteRun:
    """Implements :class:`server.service.answering.Run`. Begun by :meth:`opened`.

    A task of its own reads the stream: whoever waits for the next word may be cancelled at any time.
    """

    def __init__(self, server: Server, asked: Asked, queue_position: int) -> None:
        self._server = server
        self._asked = asked
        self.queue_position = queue_position
        self.submitted_ns = time.monotonic_ns()
        self._parts: asyncio.Queue[AnswerDelta | AnswerEnd | ServiceError] = asyncio.Queue()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = False
        self._begun_ns = self._first_ns = self._last_ns = 0
        self._written_bytes = 0
        self._counted = Counted()
        self._task = asyncio.create_task(self._run())

    async def opened(self) -> "RemoteRun":
        """The run, once the server has taken the request; then it answers, or fails while it is read.

        Raises:
            ServiceError: it does not take it.
        """
        try:
            await self._opened
        except BaseException:
            self.close()
            raise
        return self

    async def parts(self) -> AsyncIterator[AnswerDelta | AnswerEnd]:
        """Everything up to the end. Raises the ServiceError that the answer ended with."""
        while not self._ended:
            part = await self._parts.get()
            self._ended = not isinstance(part, AnswerDelta)
            if isinstance(part, ServiceError):
                raise part
            yield part

    def usage(self) -> Usage:
        """What it has cost up to now: the server's figures once it has told them, and estimates before."""
        counted = self._counted
        prompt = self._asked.prompt_tokens if counted.prompt_tokens is None else counted.prompt_tokens
        cached = min(counted.cached_tokens or 0, prompt)
        generated = counted.generated_tokens
        if generated is None:
            generated = estimated_of(self._written_bytes)
        begun_ns = self._begun_ns or time.monotonic_ns()
        first_ns = self._first_ns or max(begun_ns, self._last_ns)
        return Usage(
            prompt_tokens=prompt,
            cached_tokens=cached,
            generated_tokens=generated,
            queued_ns=begun_ns - self.submitted_ns,
            prefill_ns=first_ns - begun_ns,
            decode_ns=max(self._last_ns - first_ns, 0),
            read_tokens=prompt - cached if self._first_ns else 0,
            prompt_counted=counted.prompt_tokens is not None,
        )

    def stop(self, error: ServiceError) -> None:
        """End it with ``error``, whoever reads it."""
        self._end_with(error)
        self._task.cancel()

    def close(self) -> None:
        """Hang up, if it has not ended: the other server stops, too."""
        self._ended = True
        self._task.cancel()

    async def _run(self) -> None:
        try:
            async with self._server.turn():
                self._begun_ns = time.monotonic_ns()
                await self._until_answered()
        except ServiceError as error:
            self._end_with(error)
        except Exception:
            logger.exception("an answer of %s broke", self._server.spec.host)
            self._end_with(RemoteFailed("internal error; the server's log has the details"))
        except asyncio.CancelledError:
            self._opened.cancel()
            if self._begun_ns and not self._first_ns:
                self._server.undecided()
            raise
        finally:
            self._server.ended(self)

    def _end_with(self, error: ServiceError) -> None:
        if self._opened.done():
            self._parts.put_nowait(error)
        else:
            self._opened.set_exception(error)

    async def _until_answered(self) -> None:
        """Try, and try again as long as no word has come and another try may help."""
        pause_s = _FIRST_PAUSE_S
        for left in reversed(range(self._server.spec.retries + 1)):
            self._server.check_worth()
            self._server.begin()
            try:
                await self._try_once()
            except Trouble as trouble:
                self._server.failed(trouble)
                if self._first_ns or not trouble.again or not left:
                    raise trouble.error from trouble
                await asyncio.sleep(trouble.wait_s or pause_s)
                pause_s *= 2
            else:
                return

    async def _try_once(self) -> None:
        spec, loop = self._server.spec, asyncio.get_running_loop()
        request = self._server.http.stream("POST", f"{spec.url}{self._asked.path}", json=self._asked.body)
        try:
            async with asyncio.timeout(spec.first_token_s) as deadline, request as answer:
                if answer.status_code != _OK:
                    body = (await answer.aread())[:_LONGEST_BODY].decode(errors="replace")
                    raise of_status(spec, answer.status_code, answer.headers, body)
                if not self._opened.done():
                    self._opened.set_result(None)
                await self._read(answer, lambda: deadline.reschedule(loop.time() + spec.silence_s))
        except httpx2.HTTPError as error:
            raise of_connection(spec, error) from error
        except TimeoutError as error:
            begun = bool(self._first_ns)
            seconds = spec.silence_s if begun else spec.first_token_s
            raise of_silence(spec, seconds, begun=begun) from error
        except RemoteFailed as error:
            raise Trouble(RemoteFailed(f"{spec.host}: {error}"), again=False) from error

    async def _read(self, answer: httpx2.Response, moved: Callable[[], None]) -> None:
        """Hand on what the stream holds; ``moved`` is called with each step of it."""
        dialect, text, calls = self._asked.dialect(), AnswerParser(self._asked.expected), Calls()
        reason: FinishReason | None = None
        async for line in answer.aiter_lines():
            piece = _piece(dialect, line)
            if piece is None:
                continue
            reason = piece.reason or reason
            self._note(piece)
            # Some begin with an empty piece, long before they have read the prompt.
            if self._first_ns:
                moved()
            for delta in (*_words(piece, text), *calls.feed(piece.calls)):
                self._parts.put_nowait(delta)
            if piece.last:
                break
        if reason is None:
            raise of_end(self._server.spec)
        cut = reason is FinishReason.LENGTH
        for delta in (*text.finish(cut=cut), *calls.finish(cut=cut)):
            self._parts.put_nowait(delta)
        self._parts.put_nowait(AnswerEnd(reason, self.usage()))

    def _note(self, piece: Piece) -> None:
        if piece.counted is not None:
            self._counted = piece.counted
        texts = (piece.content, piece.thinking, *(call.arguments for call in piece.calls))
        written_bytes = sum(len(text.encode()) for text in texts)
        if not written_bytes and not piece.calls:
            return
        self._written_bytes += written_bytes
        self._last_ns = time.monotonic_ns()
        if not self._first_ns:
            self._first_ns = self._last_ns
            self._server.answered()


def _piece(dialect: Dialect, line: str) -> Piece | None:
    try:
        return dialect.piece(line)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise RemoteFailed(f"the answer is none of this API: {line[:200]}") from error


def _words(piece: Piece, text: AnswerParser) -> tuple[AnswerDelta, ...]:
    """Thinking that comes apart, and what stands in the text."""
    apart = (AnswerDelta(thinking=piece.thinking),) if piece.thinking else ()
    return (*apart, *(text.feed(piece.content) if piece.content else ()))
