"""From an admitted chat to the prompt that its model reads: as it is, or in fewer words."""

from dataclasses import dataclass, replace

from server.domain.account import Account
from server.domain.chat import ChatRequest, Message, RunOptions
from server.domain.errors import InvalidRequest
from server.domain.generation import Usage
from server.routing.condense import HelperFailed
from server.routing.decide import Plan, Strategy
from server.service.ahead import Ahead
from server.service.answering import Answerer, Prompt
from server.service.originals import Originals
from server.service.planning import Planner
from server.service.prompts import chat_prompt, check_fits, fits, truncated_prompt
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
    answerer: Answerer
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
        prompt, squeezed = await self._planner.squeezed(admitted.answerer, admitted.front, request, words_of)
        if not squeezed.shortenings:
            return full
        for shortening in squeezed.shortenings:
            self._originals.put(shortening.result.text)
        log_squeezed(request.route, squeezed, full.prompt.size_tokens, prompt.size_tokens)
        routing = replace(
            full.routing,
            tokens_sent=prompt.size_tokens,
            estimated=not prompt.is_exact,
            shortened=squeezed.shortenings,
        )
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
            prompt = await chat_prompt(admitted.answerer, messages, request.tools, request.options.think)
            _check_worth(prompt, full)
        except (HelperFailed, InvalidRequest) as failure:
            # InvalidRequest: a template may refuse the shortened chat, and take the whole one.
            log_fallback(request.route, plan, str(failure))
            unshortened = unrouted(full, plan, plan.reason, fallback=str(failure))
            prepared = await fitting(request, admitted, unshortened)
            check_fits(prepared.prompt, admitted.answerer)
            return prepared
        check_fits(prompt, admitted.answerer)
        log_summaries(plan.strategy, len(request.messages), short)
        return Prepared(
            prompt,
            Routing(
                strategy=plan.strategy,
                planned=plan.strategy,
                reason=plan.reason,
                tokens_received=full.size_tokens,
                tokens_sent=prompt.size_tokens,
                estimated=not prompt.is_exact,
                summaries=len(short.summaries),
                summaries_reused=short.reused,
                helper_ns=short.helper_ns,
            ),
        )


async def full_prompt(request: ChatRequest, admitted: Admitted) -> Prompt:
    """The chat as the client sent it, behind what its model puts before it."""
    messages = (*admitted.front, *request.messages)
    return await chat_prompt(admitted.answerer, messages, request.tools, request.options.think)


def unrouted(prompt: Prompt, plan: Plan | None, reason: str, fallback: str | None = None) -> Prepared:
    """The prompt as the client sent it, with ``plan`` saying what had been intended."""
    tokens = prompt.size_tokens
    routing = Routing(
        strategy=None if plan is None else Strategy.A,
        planned=None if plan is None else plan.strategy,
        reason=reason,
        tokens_received=tokens,
        tokens_sent=tokens,
        estimated=not prompt.is_exact,
        fallback=fallback,
    )
    return Prepared(prompt, routing)


async def fitting(request: ChatRequest, admitted: Admitted, full: Prepared) -> Prepared:
    """``full``, or where it does not fit and the client allows it, without its oldest messages."""
    answerer, options = admitted.answerer, admitted.options
    if not options.truncate or fits(full.prompt, answerer):
        return full
    found = await truncated_prompt(answerer, admitted.front, request.messages, request.tools, options)
    if found is None:
        return full
    prompt, dropped = found
    log_dropped(request.route, dropped, full.prompt.size_tokens, answerer.context_tokens)
    routing = replace(full.routing, tokens_sent=prompt.size_tokens, dropped_messages=dropped)
    return replace(full, prompt=prompt, routing=routing)


def as_counted(routing: Routing, usage: Usage) -> Routing:
    """With what the other server has counted in the end, where the sizes were estimates; what it did not
    get to see stays one."""
    if not (routing.estimated and usage.prompt_counted):
        return routing
    whole = routing.tokens_received == routing.tokens_sent
    received = usage.prompt_tokens if whole else max(routing.tokens_received, usage.prompt_tokens)
    return replace(routing, tokens_received=received, tokens_sent=usage.prompt_tokens, estimated=not whole)


def _check_worth(short: Prompt, full: Prompt) -> None:
    if short.size_tokens >= full.size_tokens:
        raise HelperFailed(
            f"the summaries would not make it shorter: {short.size_tokens} against {full.size_tokens} tokens"
        )
