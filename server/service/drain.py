"""The end of the service without the end of its answers: those under way finish, and no new ones begin."""

import asyncio
import contextlib
from collections.abc import Iterator

import anyio


class Drain:
    """Counts the answers under way, and knows what never ends by itself. Belongs to the event loop."""

    def __init__(self) -> None:
        self.begun = False
        self.answering = 0
        self._watching: set[anyio.CancelScope] = set()
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """From now on nothing new is to be taken."""
        self.begun = True

    @contextlib.contextmanager
    def answer(self) -> Iterator[None]:
        """An answer is under way for as long as the block lasts."""
        self.answering += 1
        try:
            yield
        finally:
            self.answering -= 1
            self._changed.set()

    @contextlib.contextmanager
    def watch(self) -> Iterator[anyio.CancelScope]:
        """Somebody looks on, perhaps for ever, for as long as the block lasts: :meth:`cut` ends it."""
        with anyio.CancelScope() as scope:
            self._watching.add(scope)
            try:
                yield scope
            finally:
                self._watching.discard(scope)

    async def finished(self, limit_s: float) -> bool:
        """Wait for the answers under way; False if some are left after ``limit_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.answering:
                    self._changed.clear()
                    await self._changed.wait()
        return not self.answering

    def cut(self) -> None:
        """End what only looks on."""
        for scope in tuple(self._watching):
            scope.cancel()
