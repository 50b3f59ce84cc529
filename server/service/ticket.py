"""A generation under way, on the event loop's side."""

import asyncio
from collections.abc import AsyncIterator

from server.domain.generation import EngineEvent, Failed, Finished, Generation, TextDelta, Usage
from server.engine.engine import Engine


class Ticket:
    """Submits a generation at once; its events are read later. Must be closed.

    Raises:
        QueueFull, EngineFailed: it was not accepted.
    """

    def __init__(self, engine: Engine, generation: Generation) -> None:
        self._engine = engine
        self._events: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._job = engine.submit(generation, self._receive)
        self.queue_position = self._job.position
        """Place in the queue when it was accepted, from 1; 0: it need not wait."""
        self.submitted_ns = self._job.submitted_ns

    async def events(self) -> AsyncIterator[TextDelta | Finished]:
        """Everything up to the end. Raises the ServiceError that the generation ended with."""
        while not self._ended:
            event = await self._events.get()
            self._ended = not isinstance(event, TextDelta)
            if isinstance(event, Failed):
                raise event.error
            yield event

    def _receive(self, event: EngineEvent) -> None:
        """Called on the engine's thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def usage(self) -> Usage:
        """What it has cost up to now, or up to its end."""
        return self._job.usage()

    def close(self) -> None:
        """Cancel the generation if it has not ended."""
        if not self._ended:
            self._ended = True
            self._engine.cancel(self._job)
