"""The life of a request: admit, plan, shorten, render, run, parse, report."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from server.catalogue import Catalogue, Entry, Role
from server.config import Current
from server.domain.account import Work
from server.domain.chat import (
    AnswerDelta,
    AnswerEnd,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    RunOptions,
)
from server.domain.errors import InvalidRequest, ModelNotFound, NotSupported
from server.routing.decide import Facts, Plan, Strategy
from server.routing.memory import Summaries
from server.routing.squeeze import Shortening
from server.service.access import log_access
from server.service.ahead import Ahead
from server.service.answering import Prompt, Run
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
from server.service.preparing import Admitted, Prepared, Preparer, as_counted, fitting, full_prompt, unrouted
from server.service.prompts import check_abilities, completion_prompt, fits
from server.service.recent import Recent
from server.service.reply import Opening, Reply
from server.service.report import (
    Outcome,
    log_ignored,
    log_plan,
)
from server.service.summarising import Summariser
from server.service.texts import text_of, tokens_of
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
            plan = await self._planner.plan(request, entry, admitted.answerer, facts)
            note_plan(request.account, plan, full.size_tokens)
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
            prompt = await completion_prompt(admitted.answerer, with_texts(request, entry.recipe))
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
            plan = await self._planner.plan(request, entry, admitted.answerer, facts)
            sent: int | None = full.size_tokens
            shortened: tuple[Shortening, ...] = ()
            if plan is not None and plan.squeeze:
                words_of = await self._ahead.words(choose=False)
                prompt, squeezed = await self._planner.squeezed(
                    admitted.answerer, admitted.front, request, words_of
                )
                sent, shortened = prompt.size_tokens, squeezed.shortenings
            elif plan is not None and plan.strategy is not Strategy.A:
                sent = None
            return Explanation(
                model=entry.name.display,
                policy=policy_of(request, entry, agent=facts.agent is not None),
                plan=plan,
                reason=_why_direct(named, entry) if plan is None else plan.reason,
                facts=facts,
                tokens_sent=sent,
                estimated=not full.is_exact,
                shortened=shortened,
            )

    async def count(self, request: ChatRequest) -> int:
        """Tokens of a chat as its model would read it. Loads the model."""
        return (await self._chat_prompt(request)).size_tokens

    async def chat_tokens(self, request: ChatRequest) -> tuple[int, ...]:
        """A chat as its model would read it. Loads the model.

        Raises:
            NotSupported: another server runs the model, and has its vocabulary.
        """
        prompt = await self._chat_prompt(request)
        if not prompt.tokens:
            raise NotSupported(f'"{request.model}" runs elsewhere: its vocabulary is not here')
        return prompt.tokens

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
        async with self.fleet.lease_local(self.catalogue.find(name), keep_alive_s=keep_alive_s) as loaded:
            return await tokens_of(loaded, text, add_special=add_special, parse_special=parse_special)

    async def detokenize(self, name: str, tokens: Sequence[int], *, keep_alive_s: float | None) -> str:
        """The text that ``tokens`` are. Loads the model."""
        async with self.fleet.lease_local(self.catalogue.find(name), keep_alive_s=keep_alive_s) as loaded:
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

    async def _chat_prompt(self, request: ChatRequest) -> Prompt:
        request = with_tool_choice(request)
        entry = self.catalogue.find(request.model)
        async with contextlib.AsyncExitStack() as stack:
            return await full_prompt(request, await self._admit(request, entry, stack))

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
        answerer = await stack.enter_async_context(lease)
        load_ns = time.monotonic_ns() - arrived_ns
        note_admitted(request.account, answerer.context_tokens, load_ns)
        return Admitted(
            model=request.model,
            route=request.route,
            account=request.account,
            answerer=answerer,
            options=options,
            arrived_ns=arrived_ns,
            load_ns=load_ns,
            front=front_of(entry.recipe, request.messages) if isinstance(request, ChatRequest) else (),
        )

    def _facts(self, request: ChatRequest, admitted: Admitted, full: Prompt) -> Facts:
        helper = self.fleet.speed_of(self.catalogue.of(Role.HELPER))
        return facts_of(request, admitted.answerer, full, helper)

    async def _open(self, admitted: Admitted, prepared: Prepared, stack: contextlib.AsyncExitStack) -> Reply:
        """Submit what is prepared now, so that a full queue is still an error of its own status."""
        run = await self._submit(admitted, prepared, stack)
        routing = prepared.routing
        opening = Opening(
            routing.planned,
            routing.reason,
            routing.tokens_received,
            routing.dropped_messages,
            run.queue_position,
            routing.estimated,
        )
        return Reply(opening, self._run(admitted, prepared, run), stack.pop_all())

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
        await admitted.answerer.check_format(admitted.options)
        if not fits(full, admitted.answerer):
            return await self._open(
                admitted, await self._preparer.shortened(request, admitted, full, plan), stack
            )
        admitted.answerer.refuse_when_full()
        opening = Opening(plan.strategy, plan.reason, full.size_tokens, estimated=not full.is_exact)
        resources = stack.pop_all()

        async def parts() -> AsyncIterator[AnswerDelta | Outcome]:
            prepared = await self._preparer.shortened(request, admitted, full, plan)
            run = await self._submit(admitted, prepared, resources)
            async for part in self._run(admitted, prepared, run):
                yield part

        return Reply(opening, parts(), resources)

    async def _submit(self, admitted: Admitted, prepared: Prepared, stack: contextlib.AsyncExitStack) -> Run:
        note_routing(admitted.account, prepared.routing)
        run = await prepared.prompt.submit(admitted.options)
        admitted.account.generating = run
        stack.callback(run.close)
        return run

    async def _run(
        self, admitted: Admitted, prepared: Prepared, run: Run
    ) -> AsyncIterator[AnswerDelta | Outcome]:
        async for part in run.parts():
            if isinstance(part, AnswerDelta):
                yield part
                continue
            if prepared.expected and not self.drain.begun:
                self._ahead.expect(prepared.expected)
            yield self._report(admitted, prepared, part)

    def _report(self, admitted: Admitted, prepared: Prepared, end: AnswerEnd) -> Outcome:
        routing = as_counted(prepared.routing, end.usage)
        note_routing(admitted.account, routing)
        outcome = Outcome(
            reason=end.reason,
            usage=end.usage,
            routing=routing,
            load_ns=admitted.load_ns,
            total_ns=time.monotonic_ns() - admitted.arrived_ns,
            context_tokens=admitted.answerer.context_tokens,
            ignored=admitted.options.ignored,
            prompt=prepared.prompt.tokens,
            answer=end.tokens,
            stop=end.stop,
            thinking_tokens=end.thinking_tokens,
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
