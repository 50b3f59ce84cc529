"""Scenarios about the processes themselves: start, restart, memory. Each starts its servers in turns."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from bench.client import Client
from bench.figures import Measured
from bench.prompts import repeatable
from bench.servers import Server, llama_server, our_server
from bench.stage import Stage, check_same_prompts, warm_up
from bench.streams import CONTEXT_TOKENS, STREAMS
from bench.tasks import SHARED_TOKENS
from bench.wire import Answer, Chat, Request
from server.domain.chat import Message

MIXED_REQUESTS = 200
QUICK_MIXED_REQUESTS = 48
MIB = 1024 * 1024

NewServer = Callable[[], Server]


async def start(stage: Stage) -> Measured:
    """From spawning the process to the end of its first answer, the model being in the page cache."""
    setup = stage.setup(CONTEXT_TOKENS)
    return await _in_turns(
        stage, lambda: our_server(setup), lambda: llama_server(stage.binary, setup), _first_answer_s
    )


async def memory(stage: Stage) -> Measured:
    """What a process holds beyond the mapped model after many requests."""
    setup = stage.setup(CONTEXT_TOKENS)
    plan = _mixed_requests(stage)

    async def measure(server: Server) -> float:
        async with server:
            for first in range(0, len(plan), STREAMS):
                await _at_once(server.client, plan[first : first + STREAMS])
            return server.own_bytes() / MIB

    return await _in_turns(
        stage, lambda: our_server(setup), lambda: llama_server(stage.binary, setup), measure
    )


async def restart(stage: Stage) -> Measured:
    """The first task after a restart, with instructions that were read before it; ours against ours cold."""
    setup = stage.setup(CONTEXT_TOKENS)
    cold: list[float] = []
    ours: list[float] = []
    theirs: list[float] = []
    for repetition in range(stage.repetitions):
        first, second = _two_tasks(stage, repetition)
        cache = stage.folder / f"cache-{repetition}"
        cold.append((await _answer(stage, our_server(setup, cache), first)).first_token_s)
        mine = await _answer(stage, our_server(setup, cache), second)
        other = await _answer(stage, llama_server(stage.binary, setup), second)
        check_same_prompts([mine], [other])
        ours.append(mine.first_token_s)
        theirs.append(other.first_token_s)
    return Measured(
        tuple(ours), tuple(theirs), tuple(cold), ("the ratio is ours after a restart / ours cold",)
    )


async def _in_turns(
    stage: Stage, ours: NewServer, theirs: NewServer, measure: Callable[[Server], Awaitable[float]]
) -> Measured:
    figures: dict[NewServer, list[float]] = {ours: [], theirs: []}
    for repetition in range(stage.repetitions):
        for new in (ours, theirs) if repetition % 2 == 0 else (theirs, ours):
            figures[new].append(await measure(new()))
    return Measured(tuple(figures[ours]), tuple(figures[theirs]))


async def _first_answer_s(server: Server) -> float:
    async with server:
        return server.first_answer_s


async def _answer(stage: Stage, server: Server, request: Request) -> Answer:
    async with server:
        await warm_up(stage, server)
        return await server.client.ask_whatever_length(request)


async def _at_once(client: Client, requests: Sequence[Request]) -> None:
    await asyncio.gather(*(client.ask_whatever_length(request) for request in requests))


def _mixed_requests(stage: Stage) -> list[Request]:
    random = repeatable("mixed")
    lengths = [random.choice((16, 32, 48, 64, 96, 128, 256)) for _ in range(MIXED_REQUESTS)]
    wanted = lengths[:QUICK_MIXED_REQUESTS] if stage.quick else lengths
    return [Request(stage.prompter.listing(random, length), random.randrange(2, 12)) for length in wanted]


def _two_tasks(stage: Stage, repetition: int) -> tuple[Chat, Chat]:
    random = repeatable(f"restart {repetition}")
    system, tools = stage.prompter.instructions(random, stage.long(SHARED_TOKENS))
    tasks = [Message("user", stage.prompter.listing(random, 40)) for _ in range(2)]
    first, second = (stage.prompter.as_chat([system, task], tools, 2) for task in tasks)
    return first, second
