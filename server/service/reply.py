"""An answer under way: what is known before its first word, its deltas, its end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from server.domain.chat import AnswerDelta
from server.domain.errors import ServiceError
from server.routing.decide import Strategy
from server.service.report import Outcome


@dataclass(frozen=True, slots=True)
class Opening:
    """What the response headers say. ``strategy`` is the planned one: the helper has not answered yet.

    ``queue_position`` counts from 1; 0: nobody is ahead, or it is not known yet.
    """

    strategy: Strategy | None
    reason: str
    tokens_received: int
    dropped_messages: int = 0
    queue_position: int = 0
    estimated: bool = False
    """``tokens_received`` is an estimate."""


class Reply:
    """Deltas and one outcome at the end. Must be closed, read to the end or not.

    ``opening`` is None where the response began before anything was decided.
    """

    def __init__(
        self,
        opening: Opening | None,
        parts: AsyncIterator[AnswerDelta | Outcome],
        resources: contextlib.AsyncExitStack,
    ) -> None:
        self.opening = opening
        self._parts = parts
        self._resources = resources

    def __aiter__(self) -> AsyncIterator[AnswerDelta | Outcome]:
        return self._parts

    async def whole(self) -> tuple[AnswerDelta, Outcome]:
        """Read to the end and close; everything as one delta.

        Raises:
            ServiceError: the answer broke off.
        """
        deltas: list[AnswerDelta] = []
        try:
            async for part in self._parts:
                if isinstance(part, Outcome):
                    return _joined(deltas), part
                deltas.append(part)
        finally:
            await self.aclose()
        raise ServiceError("the answer ended without an end")

    async def aclose(self) -> None:
        """Stop generating and let the model go."""
        await self._resources.aclose()


def late_reply(under_way: "asyncio.Task[Reply]") -> Reply:
    """A reply to be read while ``under_way`` is still opening the real one; its errors come while reading."""

    async def parts() -> AsyncIterator[AnswerDelta | Outcome]:
        async for part in await under_way:
            yield part

    async def close() -> None:
        under_way.cancel()
        with contextlib.suppress(asyncio.CancelledError, ServiceError):
            await (await under_way).aclose()

    resources = contextlib.AsyncExitStack()
    resources.push_async_callback(close)
    return Reply(None, parts(), resources)


def _joined(deltas: Sequence[AnswerDelta]) -> AnswerDelta:
    return AnswerDelta(
        content="".join(delta.content for delta in deltas),
        thinking="".join(delta.thinking for delta in deltas),
        tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
        call_parts=tuple(part for delta in deltas for part in delta.call_parts),
        scores=tuple(score for delta in deltas for score in delta.scores),
    )
