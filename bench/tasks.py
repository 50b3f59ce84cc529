"""Scenarios of coding agents: tasks that share their instructions, and sessions that grow turn by turn."""

from collections.abc import Sequence
from random import Random

from bench.captures import Extent, Session, marked, prompts_of
from bench.client import Client
from bench.figures import Measured
from bench.stage import Plan, Reading, Skipped, Stage, compare
from bench.streams import STREAMS
from bench.wire import Answer, Request
from server.domain.chat import Message

SHARED_TOKENS = 4500
SESSIONS = 4
TURN_TOKENS = 8
ALL = 1000
LARGE_WINDOW_TOKENS = 16_384

# llama-server needs room for eight copies of what the tasks share. Ours keeps to the model's window.
SHARED_CONTEXT_TOKENS = 40_960


async def shared_instructions(stage: Stage) -> Measured:
    """Eight new tasks at once, with the same system prompt and tools."""

    def make(random: Random) -> Plan:
        system, tools = stage.prompter.instructions(random, stage.long(SHARED_TOKENS))
        tasks = [Message("user", stage.prompter.listing(random, 40)) for _ in range(STREAMS)]
        return [Request(stage.prompter.chat([system, task], tools), 1) for task in tasks]

    async def measure(client: Client, plan: Plan) -> Reading:
        return _sum_of_first_tokens(await client.ask_all(plan))

    return await compare(stage, SHARED_CONTEXT_TOKENS, make, measure)


async def one_session(stage: Stage) -> Measured:
    """A recorded session, request by request."""
    large = stage.window_tokens >= LARGE_WINDOW_TOKENS
    extent = Extent(14_000, ALL, ALL, 2500) if large else Extent(8000, ALL, ALL, 500)
    session = recorded(stage)

    def make(random: Random) -> Plan:
        return _requests(stage, marked(session, _mark(random), _mark(random)), extent)

    return await compare(stage, LARGE_WINDOW_TOKENS if large else 8192, make, _one_after_another)


async def four_sessions(stage: Stage) -> Measured:
    """Four sessions in turns, with room for two of them in the KV cache."""
    large = stage.window_tokens >= LARGE_WINDOW_TOKENS
    extent = Extent(8000, 8, ALL, 800) if large else Extent(4000, 8, 8, 150)
    session = recorded(stage)

    def make(random: Random) -> Plan:
        system = _mark(random)
        runs = [_requests(stage, marked(session, system, _mark(random)), extent) for _ in range(SESSIONS)]
        return [request for turn in zip(*runs, strict=True) for request in turn]

    return await compare(stage, 2 * extent.tokens + 192, make, _one_after_another)


def recorded(stage: Stage) -> Session:
    """The recorded session. Raises Skipped if it is not there."""
    if stage.session is None:
        raise Skipped("there is no recorded session (--captures)")
    return stage.session


def _requests(stage: Stage, session: Session, extent: Extent) -> list[Request]:
    prompts = prompts_of(session, stage.prompter, extent)
    if not prompts:
        raise Skipped("the session does not fit into the model's window")
    return [Request(prompt, TURN_TOKENS) for prompt in (prompts[:3] if stage.quick else prompts)]


def _mark(random: Random) -> str:
    return f"{random.getrandbits(48):012x}"


async def _one_after_another(client: Client, plan: Plan) -> Reading:
    # What the model says is not part of the next prompt, so that an early end does no harm.
    return _sum_of_first_tokens([await client.ask_whatever_length(request) for request in plan])


def _sum_of_first_tokens(answers: Sequence[Answer]) -> Reading:
    return Reading(sum(answer.first_token_s for answer in answers), answers)
