"""The life of a request: admit, plan, shorten, render, run, parse, report."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from server.catalogue import Catalogue, Entry, Role
from server.chat.parse import AnswerParser
from server.config import Current
from server.domain.account import Work
from server.domain.chat import (
    AnswerDelta,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    RunOptions,
)
from server.domain.errors import InvalidRequest, ModelNotFound
from server.domain.generation import Finished, FinishReason, TextDelta, TokenScore
from server.routing.decide import Facts, Plan, Strategy
from server.routing.memory import Summaries
from server.routing.squeeze import Shortening
from server.service.access import log_access
from server.service.ahead import Ahead
from server.service.drain import Drain
from server.service.embedding import Embedded, embed
from server.service.fleet import Fleet
from server.service.guard import Guard
from server.service.helped import HelperFigures
from server.service.ledger import Ledger
from server.service.models import Models
from server.service.noting import note_admitted, note_finish, note_plan, note_routing
from server.service.originals import Originals
from server.service.placement import MIB
from server.service.planning import Explanation, Planner, facts_of, policy_of
from server.service.preparing import Admitted, Prepared, Preparer, fitting, full_prompt, unrouted
from server.service.prompts import (
    Prompt,
    check_abilities,
    check_format,
    completion_prompt,
    fits,
    to_generation,
)
from server.service.recent import Recent
from server.service.reply import Opening, Reply
from server.service.report import (
    Outcome,
    log_ignored,
    log_plan,
    thinking_length,
)
from server.service.summarising import Summariser
from server.service.texts import text_of, tokens_of
from server.service.ticket import Ticket
from server.service.wishes import front_of, with_parameters, with_texts, with_tool_choice

logger = logging.getLogger("llm-optimizer")


class Service:
    """Answers requests. Every error that a client can cause or must know is a ServiceError."""

    def __init__(self, fleet: Fleet, catalogue: Catalogue, current: Current, summaries: Summaries) -> None:
        self.current = current
        self.drain = Drain()
        self.fleet = fleet
        self.catalogue = catalogue
        self.models = Models(catalogue, fleet)
        self.ledger, self.recent = Ledger(), Recent()
        self.ledger.observe(self.recent.add)
        self.ledger.observe(log_access)
        self.originals = Originals(current.router.originals_mib * MIB)
        self._planner = Planner(current)
        self._summaries = summaries
        self.helped = HelperFigures()
        self._ahead = Ahead(fleet, catalogue, current, summaries, self.helped)
        self.guard = Guard(fleet.sight, fleet.gate, _GivingWay(fleet, self._ahead), fleet.faults)
        summariser = Summariser(fleet, catalogue, current, summaries, self.helped)
        self._preparer = Preparer(self._planner, summariser, self._ahead, self.originals)

    async def chat(self, request: ChatRequest) -> Reply:
        """Open an answer to a chat; what is wrong with the request is raised here.

        The generator's chats are routed; a chat that names the helper goes straight to it.
        """
        request = with_tool_choice(request)
        named = self.catalogue.find(request.model)
        entry = self._answering(request, named)
        check_abilities(
            await self.fleet.inspect(entry),
            request.model,
            "chat",
            tools=bool(request.tools),
            images=any(message.images for message in request.messages),
            think=request.options.think,
        )
        async with contextlib.AsyncExitStack() as stack:
            admitted = await self._admit(request, entry, stack)
            full = await full_prompt(request, admitted)
            facts = self._facts(request, admitted, full)
            plan = await self._planner.plan(request, entry, admitted.loaded, facts)
            note_plan(request.account, plan, len(full.tokens))
            if plan is not None and plan.strategy is not Strategy.A:
                return await self._open_shortened(request, admitted, full, plan, stack)
            reason = _why_direct(named, entry) if plan is None else plan.reason
            prepared = unrouted(full, plan, reason)
            if plan is not None:
                log_plan(request.route, plan, stream=request.stream)
                if plan.ahead:
                    prepared = replace(prepared, expected=request.messages)
                if plan.squeeze:
                    prepared = await self._preparer.squeezed(request, admitted, prepared)
            return await self._open(admitted, await fitting(request, admitted, prepared), stack)

    async def complete(self, request: CompletionRequest) -> Reply:
        """Open an answer to a single prompt. It is never routed."""
        entry = self.catalogue.find(request.model)
        check_abilities(
            await self.fleet.inspect(entry),
            request.model,
            "generate",
            images=bool(request.images),
            think=request.options.think,
        )
        async with contextlib.AsyncExitStack() as stack:
            admitted = await self._admit(request, entry, stack)
            prompt = await completion_prompt(admitted.loaded, with_texts(request, entry.recipe))
            return await self._open(
                admitted, unrouted(prompt, None, "a single prompt is never routed"), stack
            )

    async def explain(self, request: ChatRequest) -> Explanation:
        """What would be done with a chat, and why, without doing it. Loads the model."""
        request = with_tool_choice(request)
        named = self.catalogue.find(request.model)
        entry = self._answering(request, named)
        async with contextlib.AsyncExitStack() as stack:
            admitted = await self._admit(request, entry, stack)
            full = await full_prompt(request, admitted)
            facts = self._facts(request, admitted, full)
            plan = await self._planner.plan(request, entry, admitted.loaded, facts)
            sent: int | None = len(full.tokens)
            shortened: tuple[Shortening, ...] = ()
            if plan is not None and plan.squeeze:
                words_of = await self._ahead.words(choose=False)
                prompt, squeezed = await self._planner.squeezed(
                    admitted.loaded, admitted.front, request, words_of
                )
                sent, shortened = len(prompt.tokens), squeezed.shortenings
            elif plan is not None and plan.strategy is not Strategy.A:
                sent = None
            return Explanation(
                model=entry.name.display,
                policy=policy_of(request, entry, agent=facts.agent is not None),
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
            return (await full_prompt(request, admitted)).tokens

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
        if not (await self.fleet.inspect(entry)).embeds:
            raise InvalidRequest(
                f'"{request.model}" does not support embeddings: '
                "take a model that is made for them, such as nomic-embed-text"
            )
        request.account.work = Work(model=entry.name.display)
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
        check_abilities(await self.fleet.inspect(entry), name, purpose, think=options.think)
        resolved = with_parameters(options, entry.recipe.parameters)
        await self.fleet.load(
            entry, context_tokens=resolved.context_tokens, keep_alive_s=resolved.keep_alive_s
        )

    def unload(self, name: str) -> None:
        """Unload the model ``name`` once it is idle."""
        self.fleet.unload(self.catalogue.find(name))

    async def rest(self) -> None:
        """Stop what nobody waits for; answers go on."""
        await self._ahead.close()

    async def close(self) -> None:
        """End downloads and answers, and unload everything."""
        self.models.close()
        await self.guard.close()
        await self._ahead.close()
        self._summaries.close()
        await self.fleet.close()

    async def can(self, name: str, capability: str) -> bool:
        """Whether the model ``name`` has a capability, in Ollama's words."""
        return capability in (await self.fleet.inspect(self.catalogue.find(name))).capabilities

    def _answering(self, request: ChatRequest, named: Entry) -> Entry:
        """The model for a chat: the one that it names, or the helper for summaries, where that is wanted."""
        if not self._planner.is_for_helper(request, named):
            return named
        logger.info("%s: a summary is asked for, and the helper writes it", request.route)
        return self.catalogue.of(Role.HELPER)

    async def _admit(
        self,
        request: ChatRequest | CompletionRequest,
        entry: Entry,
        stack: contextlib.AsyncExitStack,
    ) -> Admitted:
        arrived_ns = time.monotonic_ns()
        request.account.work = Work(model=entry.name.display, stream=request.stream)
        options = with_parameters(request.options, entry.recipe.parameters)
        log_ignored(request.route, options.ignored)
        lease = self.fleet.lease(
            entry, context_tokens=options.context_tokens, keep_alive_s=options.keep_alive_s
        )
        loaded = await stack.enter_async_context(lease)
        load_ns = time.monotonic_ns() - arrived_ns
        note_admitted(request.account, loaded.context_tokens, load_ns)
        return Admitted(
            model=request.model,
            route=request.route,
            account=request.account,
            loaded=loaded,
            options=options,
            arrived_ns=arrived_ns,
            load_ns=load_ns,
            front=front_of(entry.recipe, request.messages) if isinstance(request, ChatRequest) else (),
        )

    def _facts(self, request: ChatRequest, admitted: Admitted, full: Prompt) -> Facts:
        helper = self.fleet.speed_of(self.catalogue.of(Role.HELPER))
        return facts_of(request, admitted.loaded, full, helper)

    async def _open(self, admitted: Admitted, prepared: Prepared, stack: contextlib.AsyncExitStack) -> Reply:
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
        admitted: Admitted,
        full: Prompt,
        plan: Plan,
        stack: contextlib.AsyncExitStack,
    ) -> Reply:
        """Open B and C. The response starts before the helper does, unless the chat would not fit
        without it: then the helper's failure must still be able to become a status of its own."""
        await check_format(admitted.loaded, admitted.options)
        if not fits(full, admitted.loaded):
            return await self._open(
                admitted, await self._preparer.shortened(request, admitted, full, plan), stack
            )
        admitted.loaded.engine.refuse_when_full()
        opening = Opening(plan.strategy, plan.reason, len(full.tokens))
        resources = stack.pop_all()

        async def parts() -> AsyncIterator[AnswerDelta | Outcome]:
            prepared = await self._preparer.shortened(request, admitted, full, plan)
            ticket = await self._submit(admitted, prepared, resources)
            async for part in self._run(admitted, prepared, ticket):
                yield part

        return Reply(opening, parts(), resources)

    async def _submit(
        self, admitted: Admitted, prepared: Prepared, stack: contextlib.AsyncExitStack
    ) -> Ticket:
        note_routing(admitted.account, prepared.routing)
        generation = await to_generation(admitted.loaded, prepared.prompt, admitted.options)
        ticket = Ticket(admitted.loaded.engine, generation)
        admitted.account.generating = ticket
        stack.callback(ticket.close)
        return ticket

    async def _run(
        self, admitted: Admitted, prepared: Prepared, ticket: Ticket
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
                if prepared.expected and not self.drain.begun:
                    self._ahead.expect(prepared.expected)
                yield self._report(admitted, prepared, event, thought=thought)

    def _report(self, admitted: Admitted, prepared: Prepared, end: Finished, *, thought: bool) -> Outcome:
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
        note_finish(admitted.account, end.reason)
        return outcome


class _GivingWay:
    """What gives way where the memory of a device is short: see :class:`server.service.guard.Effects`."""

    def __init__(self, fleet: Fleet, ahead: Ahead) -> None:
        self.rest = ahead.rest
        self.spill = fleet.spill
        self.leave = fleet.leave


def _why_direct(named: Entry, entry: Entry) -> str:
    if entry.role is not Role.HELPER:
        return "a further model is never routed"
    by_name = named.role is Role.HELPER
    return "the chat names the helper" if by_name else "a summary is asked for, and the helper writes it"
