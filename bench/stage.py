"""What a scenario works with, and how two servers take turns."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.captures import Session
from bench.client import Client
from bench.figures import Bar, Measured
from bench.prompts import Prompter, repeatable
from bench.servers import Server, Setup, llama_server, our_server
from bench.wire import Answer, AnswerFailed, EndedEarly, Request

MOST_ATTEMPTS = 5
WARM_UP_TOKENS = 600


class Skipped(Exception):
    """A scenario cannot be run here; the text says what is missing."""


@dataclass(frozen=True)
class Stage:
    """The model under test and everything around it.

    ``window_tokens`` is what the model was trained for; ``quick`` makes long prompts shorter.
    """

    model: Path
    binary: Path
    threads: int
    repetitions: int
    quick: bool
    window_tokens: int
    prompter: Prompter
    session: Session | None
    folder: Path

    def setup(self, context_tokens: int) -> Setup:
        """What both servers are started with."""
        return Setup(self.model, context_tokens, self.threads, self.folder)

    def long(self, tokens: int) -> int:
        """The length of a long prompt: ``tokens``, or for a first look a quarter of them."""
        return tokens // 4 if self.quick else tokens


@dataclass(frozen=True)
class Reading:
    """One figure, and the answers that it was taken from, in an order that is the same for both servers."""

    figure: float
    answers: Sequence[Answer]


Plan = Sequence[Request]
MakePlan = Callable[[Random], Plan]
Measure = Callable[[Client, Plan], Awaitable[Reading]]


@dataclass(frozen=True)
class Scenario:
    """One line of the comparison. ``figure`` says what is measured, with its unit.

    ``repetitions`` is what a full run takes; those that read much take few.
    """

    name: str
    what: str
    figure: str
    bar: Bar
    repetitions: int
    run: Callable[[Stage], Coroutine[Any, Any, Measured]]


async def compare(stage: Stage, context_tokens: int, make: MakePlan, measure: Measure) -> Measured:
    """Start both servers anew and let them answer the same requests in turns."""
    async with pair_of_servers(stage, context_tokens) as servers:
        return await take_turns(stage, servers, make, measure)


@contextlib.asynccontextmanager
async def pair_of_servers(
    stage: Stage, context_tokens: int, *flags: str
) -> AsyncIterator[tuple[Server, Server]]:
    """Ours and llama-server, which gets ``flags`` beside its defaults; both warmed up alike."""
    setup = stage.setup(context_tokens)
    async with our_server(setup) as ours, llama_server(stage.binary, setup, *flags) as theirs:
        for server in (ours, theirs):
            await warm_up(stage, server)
        yield ours, theirs


async def warm_up(stage: Stage, server: Server) -> None:
    """Touch the weights and the buffers with a prompt that none of the measured ones begins like."""
    prompt = stage.prompter.listing(repeatable("warm up"), WARM_UP_TOKENS)
    await server.client.ask_whatever_length(Request(prompt, 8))


async def take_turns(stage: Stage, servers: Sequence[Server], make: MakePlan, measure: Measure) -> Measured:
    """All repetitions on both servers, each beginning with the other one.

    Raises:
        Skipped: in one of the repetitions answers ended early with whichever prompts.
    """
    readings: list[tuple[Reading, Reading]] = []
    again = 0
    for repetition in range(stage.repetitions):
        both, attempts = await _repetition(repetition, servers, make, measure)
        readings.append(both)
        again += attempts - 1
    ours, theirs = (tuple(reading.figure for reading in side) for side in zip(*readings, strict=True))
    notes = (f"{again} more repetitions did not count, because an answer ended early",) if again else ()
    return Measured(ours, theirs, notes=notes)


async def _repetition(
    repetition: int, servers: Sequence[Server], make: MakePlan, measure: Measure
) -> tuple[tuple[Reading, Reading], int]:
    """The readings, and how many attempts they took."""
    for attempt in range(MOST_ATTEMPTS):
        plan = make(repeatable(f"repetition {repetition} attempt {attempt}"))
        with contextlib.suppress(EndedEarly):
            return await _both(servers, plan, measure, ours_first=repetition % 2 == 0), attempt + 1
    raise Skipped("the answers kept ending early")


async def _both(
    servers: Sequence[Server], plan: Plan, measure: Measure, *, ours_first: bool
) -> tuple[Reading, Reading]:
    readings = {}
    for server in servers if ours_first else reversed(servers):
        readings[server.name] = await measure(server.client, plan)
        await _become_idle()
    ours, theirs = (readings[server.name] for server in servers)
    check_same_prompts(ours.answers, theirs.answers)
    return ours, theirs


async def _become_idle() -> None:
    # OpenMP's threads go on spinning for some milliseconds; they would take the other server's cores.
    await asyncio.sleep(0.05)


def check_same_prompts(ours: Sequence[Answer], theirs: Sequence[Answer]) -> None:
    """Raises AnswerFailed where the servers have counted different prompts."""
    mine, other = ([answer.prompt_tokens for answer in answers] for answers in (ours, theirs))
    if mine != other:
        raise AnswerFailed(f"the servers read different prompts: {mine} and {other} tokens")
