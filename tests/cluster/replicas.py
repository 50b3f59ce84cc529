"""Replicas for tests of the ingress: each answers by a script of its own."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from server.cluster.wire import Asked, Head, NobodyThere, Piece, ReplicaLost, Said, Taken, Whole

NDJSON = Head(200, ((b"content-type", b"application/x-ndjson"),))
EVENTS = Head(200, ((b"content-type", b"text/event-stream; charset=utf-8"),))
JSON = Head(200, ((b"content-type", b"application/json"),))

Step = Said | Exception | float
"""What is said, what is raised, or how long nothing happens, in seconds."""


class Scripted:
    """The first request gets the first script, and so on; the last one is for all that follow."""

    def __init__(self, *scripts: Sequence[Step], wholes: Sequence[Whole] | Exception = ()) -> None:
        self._scripts = list(scripts)
        self._wholes = wholes
        self.asked: list[Asked] = []
        self.hung_up = 0

    async def ask(self, asked: Asked) -> AsyncGenerator[Said, None]:
        self.asked.append(asked)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        except (GeneratorExit, asyncio.CancelledError):
            self.hung_up += 1
            raise

    async def ask_all(self, asked: Asked, limit_s: float | None) -> list[Whole]:
        self.asked.append(asked)
        if isinstance(self._wholes, Exception):
            raise self._wholes
        return list(self._wholes)


def fine(replica: str, *pieces: bytes, head: Head = JSON) -> list[Step]:
    """A whole answer."""
    return [Taken(replica), head, *(Piece(piece) for piece in pieces)]


def lost(*before: Step) -> list[Step]:
    """An answer whose replica goes after these."""
    return [*before, ReplicaLost("killed")]


def nobody() -> list[Step]:
    """There is no replica."""
    return [NobodyThere("no replica is up")]
