"""The helper at work for strategies B and C, with everything that can go wrong with it."""

import asyncio
import logging

from server.catalogue import Catalogue, Role
from server.config import Current, RouterSettings
from server.domain.errors import ServiceError
from server.routing.condense import HelperFailed, Limits
from server.routing.decide import Plan, Strategy
from server.routing.keep import Division
from server.routing.memory import Summaries
from server.routing.shorten import Shortened, recall, resumed, shorten
from server.service.fleet import Fleet
from server.service.helped import HelperFigures
from server.service.helper import ReadyHelper

logger = logging.getLogger("llm-optimizer")

_CHARS_PER_TOKEN = 4


class Summariser:
    """Sums up what a plan allows, once: summaries of earlier turns are found again."""

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
        self._catalogue = catalogue
        self._summaries = summaries
        self._current = current

    async def carry_out(self, plan: Plan) -> Shortened:
        """The chat as ``plan`` wants it.

        Raises:
            HelperFailed: whatever went wrong; the text says what.
        """
        if plan.division is None:
            raise HelperFailed("nothing in this chat may be shortened")
        try:
            return await self._with_summaries(plan.division, plan.strategy)
        except TimeoutError as error:
            timeout_s = self._current.router.helper_timeout_s
            raise HelperFailed(f"the helper took longer than {timeout_s:g} s") from error
        except ServiceError as error:
            raise HelperFailed(f"the helper failed: {error}") from error
        except HelperFailed:
            raise
        except Exception as error:
            # The helper can only help: not even a bug in it may cost an answer.
            logger.exception("the helper broke")
            raise HelperFailed(f"the helper failed: {error}") from error

    async def _with_summaries(self, division: Division, strategy: Strategy) -> Shortened:
        """The chat with summaries: those of earlier turns, and new ones of what they do not cover."""
        entry, router = self._catalogue.of(Role.HELPER), self._current.router
        limits = _limits_of(router)
        model = (await self._fleet.inspect(entry)).file.fingerprint
        known = recall(division, model, limits, self._summaries)
        if (short := resumed(division, known, limits)) is not None:
            self._figures.reused += short.reused
            return short
        with self._figures.working(ahead=False):
            async with asyncio.timeout(router.helper_timeout_s), self._fleet.lease(entry) as helper:
                short = await shorten(division, strategy, ReadyHelper(helper), limits, known)
        self._figures.made += len(short.new_summaries)
        self._figures.reused += short.reused
        if not division.parts.material:
            self._summaries.put(known.key, short.summaries)
        return short


def _limits_of(router: RouterSettings) -> Limits:
    return Limits(
        router.chunk_tokens,
        router.summary_chars_max,
        rest_chars=_CHARS_PER_TOKEN * router.strategy_a_max,
    )
