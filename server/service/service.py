"""The life of a request: admit, plan, shorten, render, run, parse, report."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from server.catalogue import Catalogue, Entry, Installed, Role
from server.chat.parse import AnswerParser
from server.config import RouterSettings
from server.domain.chat import (
    AnswerDelta,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Message,
    RunOptions,
)
from server.domain.errors import InvalidRequest, ModelNotFound, ServiceError
from server.domain.generation import Finished, FinishReason, TextDelta, TokenScore
from server.routing.decide import Facts, Plan, Strategy
from server.routing.keep import Division
from server.routing.memory import Summaries
from server.routing.shorten import HelperFailed, Limits, Shortened, recall, resumed, shorten
from server.routing.squeeze import Shortening
from server.service.embedding import Embedded, embed
from server.service.fleet import Fleet
from server.service.helper import LoadedHelper
from server.service.loading import Loaded
from server.service.models import Models
from server.service.originals import Originals
from server.service.placement import MIB
from server.service.planning import Explanation, Planner, facts_of, policy_of, squeezed_prompt
from server.service.prompts import (
    Prompt,
    chat_prompt,
    check_abilities,
    check_fits,
    check_format,
    completion_prompt,
    fits,
    to_generation,
    truncated_prompt,
)
from server.service.reply import Opening, Reply
from server.service.report import (
    Outcome,
    Routing,
    log_dropped,
    log_fallback,
    log_ignored,
    log_outcome,
    log_plan,
    log_squeezed,
    log_summaries,
    thinking_length,
)
from server.service.texts import text_of, tokens_of
from server.service.ticket import Ticket
from server.service.wishes import front_of, with_parameters, with_texts, with_tool_choice

logger = logging.getLogger("llm-optimizer")

_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A request that passed the checks, with the model that it holds.

    ``front`` is what the model puts before the messages of a chat.
    """

    model: str
    route: str
    id: str
    loaded: Loaded
    options: RunOptions
    arrived_ns: int
    load_ns: int
    front: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the engine is to read, and how it came to that."""

    prompt: Prompt
    routing: Routing


class Service:
    """Answers requests. Every error that a client can cause or must know is a ServiceError."""

    def __init__(
        self, fleet: Fleet, catalogue: Catalogue, router: RouterSettings, summaries: Summaries
    ) -> None:
        self.fleet = fleet
        self.catalogue = catalogue
        self.models = Models(catalogue, fleet)
        self.originals = Originals(router.originals_mib * MIB)
        self._planner = Planner(router)
        self._limits = Limits(
            router.chunk_tokens,
            router.summary_chars_max,
            rest_chars=_CHARS_PER_TOKEN * router.strategy_a_max,
        )
        self._summaries = summaries
        self._helper_timeout_s = router.helper_timeout_s

    async def chat(self, request: ChatRequest) -> Reply:
        """Open an answer to a chat; what is wrong with the request is raised here.

        The generator's chats are routed; a chat that names the helper goes straight to it.
        """
        request = with_tool_choice(request)
        named = self.catalogue.find(request.model)
        entry = self._answering(request, named)
        check_abilities(
            await self._inspect(entry),
            request.model,
            "chat",
            tools=bool(request.tools),
            images=any(message.images for message in request.messages),
            think=request.options.think,
        )
        async with contextlib.AsyncExitStack() as stack:
            admitted = await self._admit(request, entry, stack)
            full = await self._full_prompt(request, admitted)
            facts = self._facts(request, admitted, full)
            plan = await self._planner.plan(request, entry, admitted.loaded, facts)
            if plan is not None and plan.strategy is not Strategy.A:
                return await self._open_shortened(request, admitted, full, plan, stack)
            reason = _why_direct(named, entry) if plan is None else plan.reason
            prepared = _unrouted(full, plan, reason)
            if plan is not None:
                log_plan(request.route, plan, stream=request.stream)
                if plan.squeeze:
                    prepared = await self._squeezed(request, admitted, prepared)
            return await self._open(admitted, await self._fitting(request, admitted, prepared), stack)

    async def complete(self, request: CompletionRequest) -> Reply:
        """Open an answer to a single prompt. It is never routed."""
        entry = self.catalogue.find(request.model)
        check_abilities(
            await self._inspect(entry),
            request.model,
            "generate",
            images=bool(request.images),
            think=request.options.think,
        )
        async with contextlib.AsyncExitStack() as stack:
            admitted = await self._admit(request, entry, stack)
            prompt = await completion_prompt(admitted.loaded, with_texts(request, entry.recipe))
            return await self._open(
                admitted, _unrouted(prompt, None, "a single prompt is never routed"), stack
            )

    async def explain(self, request: ChatRequest) -> Explanation:
        """What would be done with a chat, and why, without doing it. Loads the model."""
        request = with_tool_choice(request)
        named = self.catalogue.find(request.model)
        entry = self._answering(request, named)
        async with contextlib.AsyncExitStack() as stack:
            admitted = await self._admit(request, entry, stack)
            full = await self._full_prompt(request, admitted)
            facts = self._facts(request, admitted, full)
            plan = await self._planner.plan(request, entry, admitted.loaded, facts)
            sent: int | None = len(full.tokens)
            shortened: tuple[Shortening, ...] = ()
            if plan is not None and plan.squeeze:
                prompt, squeezed = await squeezed_prompt(admitted.loaded, admitted.front, request)
                sent, shortened = len(prompt.tokens), squeezed.shortenings
            elif plan is not None and plan.strategy is not Strategy.A:
                sent = None
            return Explanation(
                model=entry.name.display,
                policy=policy_of(request, entry),
                plan=plan,
                reason=_why_direct(named, entry) if plan is None else plan.reason,
                facts=facts,
                tokens_sent=sent,
                shortened=shortened,
            )

    async def count(self, request: ChatRequest) -> int:
        """Tokens of a chat as its model would read it. Loads the model."""
        return len(await self.chat_tokens(request))

    async def chat_tokens(self, request: ChatRequest) -> tuple[int, ...]:
        """A chat as its model would read it. Loads the model."""
        request = with_tool_choice(request)
        entry = self.catalogue.find(request.model)
        async with contextlib.AsyncExitStack() as stack:
            admitted = await self._admit(request, entry, stack)
            return (await self._full_prompt(request, admitted)).tokens

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """The vectors of some texts. Without texts it only loads the model.

        Raises:
            InvalidRequest: the model is none for embeddings; a text is too long.
        """
        log_ignored(request.route, request.options.ignored)
        try:
            entry = self.catalogue.find(request.model)
        except ModelNotFound:
            text = f'model "{request.model}" not found, try pulling it first'
            raise ModelNotFound(request.model, text) from None
        if not (await self._inspect(entry)).embeds:
            raise InvalidRequest(
                f'"{request.model}" does not support embeddings: '
                "take a model that is made for them, such as nomic-embed-text"
            )
        options = with_parameters(request.options, entry.recipe.parameters)
        return await embed(self.fleet, entry, replace(request, options=options))

    async def tokenize(
        self, name: str, text: str, *, add_special: bool, parse_special: bool, keep_alive_s: float | None
    ) -> tuple[int, ...]:
        """Token ids of a text in the vocabulary of the model ``name``. Loads the model."""
        async with self.fleet.lease(self.catalogue.find(name), keep_alive_s=keep_alive_s) as loaded:
            return await tokens_of(loaded, text, add_special=add_special, parse_special=parse_special)

    async def detokenize(self, name: str, tokens: Sequence[int], *, keep_alive_s: float | None) -> str:
        """The text that ``tokens`` are. Loads the model."""
        async with self.fleet.lease(self.catalogue.find(name), keep_alive_s=keep_alive_s) as loaded:
            return await text_of(loaded, tokens)

    async def load(self, name: str, purpose: str, options: RunOptions) -> None:
        """Load the model ``name`` to ``chat`` or ``generate``, as ``options`` ask for."""
        log_ignored("load", options.ignored)
        entry = self.catalogue.find(name)
        check_abilities(await self._inspect(entry), name, purpose, think=options.think)
        resolved = with_parameters(options, entry.recipe.parameters)
        await self.fleet.load(
            entry, context_tokens=resolved.context_tokens, keep_alive_s=resolved.keep_alive_s
        )

    def unload(self, name: str) -> None:
        """Unload the model ``name`` once it is idle."""
        self.fleet.unload(self.catalogue.find(name))

    async def close(self) -> None:
        """End downloads and answers, and unload everything."""
        self.models.close()
        self._summaries.close()
        await self.fleet.close()

    async def can(self, name: str, capability: str) -> bool:
        """Whether the model ``name`` has a capability, in Ollama's words."""
        return capability in (await self._inspect(self.catalogue.find(name))).capabilities

    def _answering(self, request: ChatRequest, named: Entry) -> Entry:
        """The model for a chat: the one that it names, or the helper for summaries, where that is wanted."""
        if not self._planner.is_for_helper(request, named):
            return named
        logger.info("%s: a summary is asked for, and the helper writes it", request.route)
        return self.catalogue.of(Role.HELPER)

    async def _inspect(self, entry: Entry) -> Installed:
        """What the model's file says of itself; a thread reads it where that is not known yet."""
        known = self.fleet.at_work(entry) or self.catalogue.glance(entry)
        return await asyncio.to_thread(self.catalogue.inspect, entry) if known is None else known

    async def _admit(
        self,
        request: ChatRequest | CompletionRequest,
        entry: Entry,
        stack: contextlib.AsyncExitStack,
    ) -> _Admitted:
        arrived_ns = time.monotonic_ns()
        options = with_parameters(request.options, entry.recipe.parameters)
        log_ignored(request.route, options.ignored)
        lease = self.fleet.lease(
            entry, context_tokens=options.context_tokens, keep_alive_s=options.keep_alive_s
        )
        loaded = await stack.enter_async_context(lease)
        return _Admitted(
            model=request.model,
            route=request.route,
            id=request.id,
            loaded=loaded,
            options=options,
            arrived_ns=arrived_ns,
            load_ns=time.monotonic_ns() - arrived_ns,
            front=front_of(entry.recipe, request.messages) if isinstance(request, ChatRequest) else (),
        )

    def _facts(self, request: ChatRequest, admitted: _Admitted, full: Prompt) -> Facts:
        helper = self.fleet.speed_of(self.catalogue.of(Role.HELPER))
        return facts_of(request, admitted.loaded, full, helper)

    async def _full_prompt(self, request: ChatRequest, admitted: _Admitted) -> Prompt:
        messages = (*admitted.front, *request.messages)
        return await chat_prompt(admitted.loaded, messages, request.tools, request.options.think)

    async def _fitting(self, request: ChatRequest, admitted: _Admitted, full: _Prepared) -> _Prepared:
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
        return _Prepared(prompt, routing)

    async def _squeezed(self, request: ChatRequest, admitted: _Admitted, full: _Prepared) -> _Prepared:
        """A session of an agent with its old tool results shortened; ``full`` where that changes nothing."""
        prompt, squeezed = await squeezed_prompt(admitted.loaded, admitted.front, request)
        if not squeezed.shortenings:
            return full
        for shortening in squeezed.shortenings:
            self.originals.put(shortening.result.text)
        log_squeezed(request.route, squeezed, len(full.prompt.tokens), len(prompt.tokens))
        routing = replace(full.routing, tokens_sent=len(prompt.tokens), shortened=squeezed.shortenings)
        return _Prepared(prompt, routing)

    async def _open(
        self, admitted: _Admitted, prepared: _Prepared, stack: contextlib.AsyncExitStack
    ) -> Reply:
        """Submit what is prepared now, so that a full queue is still an error of its own status."""
        ticket = await self._submit(admitted, prepared, stack)
        routing = prepared.routing
        opening = Opening(
            routing.planned,
            routing.reason,
            routing.tokens_received,
            routing.dropped_messages,
            ticket.queue_position,
        )
        return Reply(opening, self._run(admitted, prepared, ticket), stack.pop_all())

    async def _open_shortened(
        self,
        request: ChatRequest,
        admitted: _Admitted,
        full: Prompt,
        plan: Plan,
        stack: contextlib.AsyncExitStack,
    ) -> Reply:
        """Open B and C. The response starts before the helper does, unless the chat would not fit
        without it: then the helper's failure must still be able to become a status of its own."""
        await check_format(admitted.loaded, admitted.options)
        if not fits(full, admitted.loaded):
            return await self._open(admitted, await self._shortened(request, admitted, full, plan), stack)
        admitted.loaded.engine.refuse_when_full()
        opening = Opening(plan.strategy, plan.reason, len(full.tokens))
        resources = stack.pop_all()

        async def parts() -> AsyncIterator[AnswerDelta | Outcome]:
            prepared = await self._shortened(request, admitted, full, plan)
            ticket = await self._submit(admitted, prepared, resources)
            async for part in self._run(admitted, prepared, ticket):
                yield part

        return Reply(opening, parts(), resources)

    async def _shortened(
        self, request: ChatRequest, admitted: _Admitted, full: Prompt, plan: Plan
    ) -> _Prepared:
        """Carry out B or C, or fall back to A.

        Raises:
            PromptTooLong: neither the shortened nor the whole chat fits.
        """
        log_plan(request.route, plan, stream=request.stream)
        try:
            short = await self._ask_helper(plan)
            messages = (*admitted.front, *short.messages)
            prompt = await chat_prompt(admitted.loaded, messages, request.tools, request.options.think)
            _check_worth(prompt, full)
        except (HelperFailed, InvalidRequest) as failure:
            # InvalidRequest: a template may refuse the shortened chat, and take the whole one.
            log_fallback(request.route, plan, str(failure))
            unshortened = _unrouted(full, plan, plan.reason, fallback=str(failure))
            prepared = await self._fitting(request, admitted, unshortened)
            check_fits(prepared.prompt, admitted.loaded)
            return prepared
        check_fits(prompt, admitted.loaded)
        log_summaries(plan.strategy, len(request.messages), short)
        return _Prepared(
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

    async def _ask_helper(self, plan: Plan) -> Shortened:
        if plan.division is None:
            raise HelperFailed("nothing in this chat may be shortened")
        try:
            return await self._with_summaries(plan.division, plan.strategy)
        except TimeoutError as error:
            raise HelperFailed(f"the helper took longer than {self._helper_timeout_s:g} s") from error
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
        entry = self.catalogue.of(Role.HELPER)
        model = (await self._inspect(entry)).file.fingerprint
        known = recall(division, model, self._limits, self._summaries)
        if (short := resumed(division, known, self._limits)) is not None:
            return short
        async with asyncio.timeout(self._helper_timeout_s), self.fleet.lease(entry) as helper:
            short = await shorten(division, strategy, LoadedHelper(helper), self._limits, known)
        if not division.parts.material:
            self._summaries.put(known.key, short.summaries)
        return short

    async def _submit(
        self, admitted: _Admitted, prepared: _Prepared, stack: contextlib.AsyncExitStack
    ) -> Ticket:
        generation = await to_generation(admitted.loaded, prepared.prompt, admitted.options)
        ticket = Ticket(admitted.loaded.engine, generation)
        stack.callback(ticket.close)
        return ticket

    async def _run(
        self, admitted: _Admitted, prepared: _Prepared, ticket: Ticket
    ) -> AsyncIterator[AnswerDelta | Outcome]:
        parser = AnswerParser(prepared.prompt.expected)
        scores: tuple[TokenScore, ...] = ()
        thought = False
        async for event in ticket.events():
            ended = isinstance(event, Finished)
            scores += event.scores
            deltas = (
                parser.feed(event.text)
                if isinstance(event, TextDelta)
                else parser.finish(cut=event.reason is FinishReason.LENGTH)
            )
            if scores and (deltas or ended):
                # They go with the first text that is certain, though part of it may be held back.
                first, *others = deltas or (AnswerDelta(),)
                deltas, scores = (replace(first, scores=scores), *others), ()
            for delta in deltas:
                thought = thought or bool(delta.thinking)
                yield delta
            if isinstance(event, Finished):
                yield self._report(admitted, prepared, event, thought=thought)

    def _report(self, admitted: _Admitted, prepared: _Prepared, end: Finished, *, thought: bool) -> Outcome:
        pieces = map(admitted.loaded.engine.model.piece, end.tokens)
        outcome = Outcome(
            reason=end.reason,
            usage=end.usage,
            routing=prepared.routing,
            load_ns=admitted.load_ns,
            total_ns=time.monotonic_ns() - admitted.arrived_ns,
            context_tokens=admitted.loaded.context_tokens,
            ignored=admitted.options.ignored,
            prompt=prepared.prompt.tokens,
            answer=end.tokens,
            stop=end.stop,
            thinking_tokens=thinking_length(pieces) if thought else 0,
        )
        log_outcome(admitted.route, admitted.id, admitted.model, outcome)
        return outcome


def _why_direct(named: Entry, entry: Entry) -> str:
    if entry.role is not Role.HELPER:
        return "a further model is never routed"
    by_name = named.role is Role.HELPER
    return "the chat names the helper" if by_name else "a summary is asked for, and the helper writes it"


def _check_worth(short: Prompt, full: Prompt) -> None:
    if len(short.tokens) >= len(full.tokens):
        raise HelperFailed(
            f"the summaries would not make it shorter: {len(short.tokens)} against {len(full.tokens)} tokens"
        )


def _unrouted(prompt: Prompt, plan: Plan | None, reason: str, fallback: str | None = None) -> _Prepared:
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
    return _Prepared(prompt, routing)
