"""An answer under way: what is known before its first word, its deltas, its end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from server.domain.chat import AnswerDelta
from server.domain.errors import ServiceError
from server.routing.decide import Strategy
from server.service.report import Outcome


@dataclass(frozen=True, slots=True)
class Opening:
    """What the response headers say. ``strategy`` is the planned one: the helper has not answered yet."""

    strategy: Strategy | None
    reason: str
    tokens_received: int
    dropped_messages: int = 0


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
