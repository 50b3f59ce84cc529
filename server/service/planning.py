"""How a chat is to be answered: the facts about it, the router's decision, and a session made to fit."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.catalogue import Entry, Role
from server.config import Current, RouterSettings
from server.domain.chat import ChatRequest, Message, Policy
from server.engine.pace import Speed
from server.routing.agents import agent_signs, is_summarising
from server.routing.condense import CHARS_PER_SUMMARY_TOKEN
from server.routing.decide import Facts, Plan, Thresholds, decide
from server.routing.outline import Outline, outline_of
from server.routing.results import Result
from server.routing.squeeze import Marks, Shortening, Squeezed, message_tokens, squeeze
from server.service.ahead import WordsOf
from server.service.answering import Answerer, Prompt
from server.service.remembered import Remembered

_MOST_COUNTS, _MOST_OUTLINES = 20_000, 1_000
"""Some ten MiB: sessions of a thousand messages."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would be done with a chat.

    ``plan`` None: it is not routed. ``tokens_sent`` None: only the helper's summaries will tell.
    """

    model: str
    policy: Policy | None
    plan: Plan | None
    reason: str
    facts: Facts
    tokens_sent: int | None
    estimated: bool
    """The tokens are: nobody has counted them, for the model runs elsewhere."""
    shortened: tuple[Shortening, ...]

    @property
    def fits(self) -> bool | None:
        """Whether the window holds what would be sent; None: only the summaries will tell."""
        return None if self.tokens_sent is None else self.tokens_sent < self.facts.window_tokens


class Planner:
    """The router's settings at work. It remembers what the requests of a session have in common."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._counts = Remembered[int](_MOST_COUNTS)
        self._outlines = Remembered[Outline | None](_MOST_OUTLINES)

    def is_for_helper(self, request: ChatRequest, entry: Entry) -> bool:
        """Whether the helper is to answer a chat that names the generator."""
        return (
            self._current.router.summaries_by_helper
            and entry.role is Role.GENERATOR
            and request.policy is None
            and is_summarising(request.messages, has_tools=bool(request.tools))
        )

    async def plan(self, request: ChatRequest, entry: Entry, model: Answerer, facts: Facts) -> Plan | None:
        """What to do with a chat; None: nothing, it is not routed."""
        policy = policy_of(request, entry, agent=facts.agent is not None)
        if policy is None:
            return None
        thresholds = _thresholds_of(self._current.router)
        return await asyncio.to_thread(
            decide, request.messages, facts, policy, thresholds, self._counter(model)
        )

    async def squeezed(
        self, model: Answerer, front: Sequence[Message], request: ChatRequest, words_of: WordsOf
    ) -> tuple[Prompt, Squeezed]:
        """A session of an agent with old tool results shortened, as far as its window asks for it."""
        return await asyncio.to_thread(self._squeezed, model, front, request, words_of)

    def _squeezed(
        self, model: Answerer, front: Sequence[Message], request: ChatRequest, words_of: WordsOf
    ) -> tuple[Prompt, Squeezed]:
        count = self._counter(model)
        think = request.options.think
        # The opening is the same in all requests of a session, and so is what it takes beside its words: the
        # steps must not depend on how far the session has come.
        opening = _opening(request.messages)
        rendered = model.prompt((*front, *opening), request.tools, think)
        frame_tokens = rendered.size_tokens - sum(message_tokens(message, count) for message in opening)
        marks = Marks.of(model.context_tokens)
        squeezed = squeeze(
            request.messages, frame_tokens, marks, count, words_of=words_of, outline=self._outline
        )
        return model.prompt((*front, *squeezed.messages), request.tools, think), squeezed

    def _counter(self, model: Answerer) -> Callable[[str], int]:
        """Counts tokens as a model does. Of a session nearly all texts come again with the next request."""
        vocabulary = model.vocabulary

        def count(text: str) -> int:
            return self._counts.get((vocabulary, text), lambda: model.count(text))

        return count

    def _outline(self, result: Result, wanted: frozenset[str]) -> Outline | None:
        parts = (result.kind, result.subject, result.text, *sorted(wanted))
        return self._outlines.get(parts, lambda: outline_of(result, wanted))


def facts_of(request: ChatRequest, model: Answerer, full: Prompt, helper: Speed) -> Facts:
    """What is known of a chat whose whole prompt is ``full``, now."""
    return Facts(
        tokens=full.size_tokens,
        held_tokens=full.held_tokens,
        window_tokens=model.context_tokens,
        agent=agent_signs(request.messages, has_tools=bool(request.tools)),
        generator=model.speed,
        helper=helper,
    )


def policy_of(request: ChatRequest, entry: Entry, *, agent: bool) -> Policy | None:
    """The rules for a chat; None where neither the request nor the model's settings ask for any.

    An ``agent`` may work on a further model, too: its session outgrows that one's window likewise.
    """
    if request.policy is not None:
        return request.policy
    if entry.role is None:
        return Policy.AUTO if agent else None
    policy = Policy(entry.settings.policy)
    if entry.role is Role.HELPER and policy is Policy.DIRECT:
        return None
    return policy


def _thresholds_of(router: RouterSettings) -> Thresholds:
    return Thresholds(
        router.strategy_a_max,
        router.strategy_b_max,
        min_material_chars=2 * router.summary_chars_max,
        by_chars=router.token_estimator == "chars",  # noqa: S105  # no password
        summary_tokens=router.summary_chars_max // CHARS_PER_SUMMARY_TOKEN,
    )


def _opening(messages: Sequence[Message]) -> Sequence[Message]:
    """Up to the user's first words, without which some templates render nothing."""
    users = (place for place, message in enumerate(messages, 1) if message.role == "user")
    return messages[: next(users, len(messages))]
