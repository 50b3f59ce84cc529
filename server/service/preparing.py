"""From an admitted chat to the prompt that its model reads: as it is, or in fewer words."""

from dataclasses import dataclass, replace

from server.domain.account import Account
from server.domain.chat import ChatRequest, Message, RunOptions
from server.domain.errors import InvalidRequest
from server.routing.condense import HelperFailed
from server.routing.decide import Plan, Strategy
from server.service.ahead import Ahead
from server.service.loading import Loaded
from server.service.originals import Originals
from server.service.planning import Planner
from server.service.prompts import Prompt, chat_prompt, check_fits, fits, truncated_prompt
from server.service.report import Routing, log_dropped, log_fallback, log_plan, log_squeezed, log_summaries
from server.service.summarising import Summariser


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that passed the checks, with the model that it holds.

    ``front`` is what the model puts before the messages of a chat.
    """

    model: str
    route: str
    account: Account
    loaded: Loaded
    options: RunOptions
    arrived_ns: int
    load_ns: int
    front: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the engine is to read, and how it came to that."""

    prompt: Prompt
    routing: Routing
    expected: tuple[Message, ...] = ()
    """A session whose tool results will have to give way soon."""


class Preparer:
    """Carries out the router's plans."""

    def __init__(self, planner: Planner, summariser: Summariser, ahead: Ahead, originals: Originals) -> None:
        self._planner = planner
        self._summariser = summariser
        self._ahead = ahead
        self._originals = originals

    async def squeezed(self, request: ChatRequest, admitted: Admitted, full: Prepared) -> Prepared:
        """A session of an agent with its old tool results shortened; ``full`` where that changes nothing."""
        words_of = await self._ahead.words(choose=True)
        prompt, squeezed = await self._planner.squeezed(admitted.loaded, admitted.front, request, words_of)
        if not squeezed.shortenings:
            return full
        for shortening in squeezed.shortenings:
            self._originals.put(shortening.result.text)
        log_squeezed(request.route, squeezed, len(full.prompt.tokens), len(prompt.tokens))
        routing = replace(full.routing, tokens_sent=len(prompt.tokens), shortened=squeezed.shortenings)
        return replace(full, prompt=prompt, routing=routing)

    async def shortened(self, request: ChatRequest, admitted: Admitted, full: Prompt, plan: Plan) -> Prepared:
        """Carry out B or C, or fall back to A.

        Raises:
            PromptTooLong: neither the shortened nor the whole chat fits.
        """
        log_plan(request.route, plan, stream=request.stream)
        try:
            short = await self._summariser.carry_out(plan)
            messages = (*admitted.front, *short.messages)
            prompt = await chat_prompt(admitted.loaded, messages, request.tools, request.options.think)
            _check_worth(prompt, full)
        except (HelperFailed, InvalidRequest) as failure:
            # InvalidRequest: a template may refuse the shortened chat, and take the whole one.
            log_fallback(request.route, plan, str(failure))
            unshortened = unrouted(full, plan, plan.reason, fallback=str(failure))
            prepared = await fitting(request, admitted, unshortened)
            check_fits(prepared.prompt, admitted.loaded)
            return prepared
        check_fits(prompt, admitted.loaded)
        log_summaries(plan.strategy, len(request.messages), short)
        return Prepared(
            prompt,
            Routing(
                strategy=plan.strategy,
                planned=plan.strategy,
                reason=plan.reason,
                tokens_received=len(full.tokens),
                tokens_sent=len(prompt.tokens),
                summaries=len(short.summaries),
                summaries_reused=short.reused,
                helper_ns=short.helper_ns,
            ),
        )


async def full_prompt(request: ChatRequest, admitted: Admitted) -> Prompt:
    """The chat as the client sent it, behind what its model puts before it."""
    messages = (*admitted.front, *request.messages)
    return await chat_prompt(admitted.loaded, messages, request.tools, request.options.think)


def unrouted(prompt: Prompt, plan: Plan | None, reason: str, fallback: str | None = None) -> Prepared:
    """The prompt as the client sent it, with ``plan`` saying what had been intended."""
    tokens = len(prompt.tokens)
    routing = Routing(
        strategy=None if plan is None else Strategy.A,
        planned=None if plan is None else plan.strategy,
        reason=reason,
        tokens_received=tokens,
        tokens_sent=tokens,
        fallback=fallback,
    )
    return Prepared(prompt, routing)


async def fitting(request: ChatRequest, admitted: Admitted, full: Prepared) -> Prepared:
    """``full``, or where it does not fit and the client allows it, without its oldest messages."""
    loaded, options = admitted.loaded, admitted.options
    if not options.truncate or fits(full.prompt, loaded):
        return full
    found = await truncated_prompt(loaded, admitted.front, request.messages, request.tools, options)
    if found is None:
        return full
    prompt, dropped = found
    log_dropped(request.route, dropped, len(full.prompt.tokens), loaded.context_tokens)
    routing = replace(full.routing, tokens_sent=len(prompt.tokens), dropped_messages=dropped)
    return replace(full, prompt=prompt, routing=routing)


def _check_worth(short: Prompt, full: Prompt) -> None:
    if len(short.tokens) >= len(full.tokens):
        raise HelperFailed(
            f"the summaries would not make it shorter: {len(short.tokens)} against {len(full.tokens)} tokens"
        )
