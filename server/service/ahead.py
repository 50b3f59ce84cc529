"""Ahead of need: the helper reads old tool results before a session has to do without them.

It works while nobody waits for it, after an answer, and at the lowest priority. What a request finds ready is
used, and from then on always; what is not ready then stays an outline.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache

from server.catalogue import Catalogue, Entry, Role
from server.config import Current
from server.domain.chat import Message
from server.domain.errors import ServiceError
from server.routing.condense import HelperFailed, Limits
from server.routing.digest import digest, digest_key, wants_digest
from server.routing.memory import Summaries
from server.routing.results import Result, results_of
from server.service.fleet import Fleet
from server.service.helped import HelperFigures
from server.service.helper import ReadyHelper

logger = logging.getLogger("llm-optimizer")

WordsOf = Callable[[Result], str | None]
"""The helper's words on a tool result; None: there are none, and its outline serves."""

_MOST_SESSIONS = 8
_REMEMBERED = 4096


class Ahead:
    """The digests of tool results: those that there are, and the making of more."""

    def __init__(
        self,
        fleet: Fleet,
        catalogue: Catalogue,
        current: Current,
        summaries: Summaries,
        figures: HelperFigures,
    ) -> None:
        self._figures = figures
        self._fleet = fleet
        self._summaries = summaries
        self._helper = catalogue.of(Role.HELPER)
        self._current = current
        here, there = (_runs_on(entry) for entry in (self._helper, catalogue.of(Role.GENERATOR)))
        self._has_own_device = here.isdisjoint(there)
        # Asked for each old result of each request: the disk need not be.
        self._chosen = lru_cache(_REMEMBERED)(self._choose)
        self._sessions: deque[tuple[Message, ...]] = deque(maxlen=_MOST_SESSIONS)
        self._task: asyncio.Task[None] | None = None

    async def words(self, *, choose: bool) -> WordsOf:
        """A look at the digests that are ready.

        ``choose``: what it finds, or does not find, is what every later request gets, so that the model
        reads the same text in each.
        """
        try:
            model = (await self._fleet.inspect(self._helper)).file.fingerprint
        except ServiceError:
            return lambda _result: None

        def words_of(result: Result) -> str | None:
            if not wants_digest(result):
                return None
            key = digest_key(model, self._limits, result)
            return (self._chosen(key) if choose else self._ready(key)) or None

        return words_of

    def expect(self, messages: Sequence[Message]) -> None:
        """A session will have to do without some of its results soon; returns at once."""
        wish = self._current.router.ahead_of_need
        if wish == "off" or (wish == "auto" and not self._has_own_device):
            return
        self._sessions.append(tuple(messages))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def rest(self, device: str) -> None:
        """Stop for now, if it happens on ``device``; the next answer of a long session starts it again."""
        if device in self._helper.settings.places:
            await self.close()

    async def close(self) -> None:
        """Leave what is not done."""
        self._sessions.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def _limits(self) -> Limits:
        router = self._current.router
        return Limits(router.chunk_tokens, router.summary_chars_max)

    def _choose(self, key: str) -> str:
        return self._summaries.settle(key, ("",))[0]

    def _ready(self, key: str) -> str:
        return (self._summaries.get(key) or ("",))[0]

    async def _work(self) -> None:
        try:
            while self._sessions:
                await self._read(self._sessions.popleft())
        except ServiceError as error:
            logger.info("nothing more is read ahead for now: %s", error)
        except Exception:
            # Nobody waits for this, and no answer may be lost for it.
            logger.exception("reading ahead broke")

    async def _read(self, messages: Sequence[Message]) -> None:
        model = (await self._fleet.inspect(self._helper)).file.fingerprint
        results = await asyncio.to_thread(results_of, messages)
        for result in results:
            key = digest_key(model, self._limits, result)
            if wants_digest(result) and self._summaries.get(key) is None:
                self._summaries.settle(key, (await self._words_on(result),))

    async def _words_on(self, result: Result) -> str:
        """Empty where the helper has none; it is not asked again then."""
        try:
            async with self._fleet.lease(self._helper, waits=False) as helper:
                with self._figures.working(ahead=True):
                    words = await digest(result, ReadyHelper(helper, background=True), self._limits)
        except HelperFailed as failure:
            logger.info("no summary of %s %s: %s", result.tool, result.subject, failure)
            return ""
        self._figures.ahead += 1
        logger.info("GPU1 ahead of need: %s %s, %d chars", result.tool, result.subject, len(words))
        return words


def _runs_on(entry: Entry) -> frozenset[str]:
    """The devices, or the server, that compute for a model."""
    settings = entry.settings
    return frozenset({settings.remote_url} if settings.is_elsewhere else settings.places)
