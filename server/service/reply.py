"""An answer under way: what is known before its first word, its deltas, its end."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from server.domain.chat import AnswerDelta
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
    """Deltas and one outcome at the end. Must be closed, read to the end or not."""

    def __init__(
        self,
        opening: Opening,
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
