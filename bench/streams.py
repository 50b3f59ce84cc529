"""Scenarios with finished prompts: one or more answers at a time, of short and long prompts."""

from random import Random
from time import perf_counter

from bench.client import Client
from bench.figures import Measured
from bench.stage import Plan, Reading, Stage, compare
from bench.wire import SAMPLED, Request

CONTEXT_TOKENS = 8192
STREAMS = 8
SHORT_PROMPT_TOKENS = 60
EQUAL_REQUESTS = 20


async def one_stream(stage: Stage) -> Measured:
    """One answer of 128 tokens to a short prompt."""

    def make(random: Random) -> Plan:
        prompt = stage.prompter.listing(random, SHORT_PROMPT_TOKENS)
        return [Request(prompt, 128, random.getrandbits(31), SAMPLED)]

    async def measure(client: Client, plan: Plan) -> Reading:
        answer = await client.ask(plan[0])
        return Reading(answer.tokens_per_s, [answer])

    return await compare(stage, CONTEXT_TOKENS, make, measure)


async def cold_1400(stage: Stage) -> Measured:
    """A prompt of 1,400 tokens that no cache knows."""
    return await _cold(stage, stage.long(1400))


async def cold_6000(stage: Stage) -> Measured:
    """A prompt of 6,000 tokens that no cache knows."""
    return await _cold(stage, stage.long(6000))


async def _cold(stage: Stage, tokens: int) -> Measured:
    def make(random: Random) -> Plan:
        return [Request(stage.prompter.listing(random, tokens), 2)]

    async def measure(client: Client, plan: Plan) -> Reading:
        answer = await client.ask(plan[0])
        return Reading(answer.first_token_s, [answer])

    return await compare(stage, CONTEXT_TOKENS, make, measure)


async def eight_streams(stage: Stage) -> Measured:
    """Eight answers of 96 tokens at once."""

    def make(random: Random) -> Plan:
        prompts = [stage.prompter.listing(random, SHORT_PROMPT_TOKENS) for _ in range(STREAMS)]
        return [Request(prompt, 96, random.getrandbits(31), SAMPLED) for prompt in prompts]

    async def measure(client: Client, plan: Plan) -> Reading:
        started_s = perf_counter()
        answers = await client.ask_all(plan)
        seconds = max(answer.ended_s for answer in answers) - started_s
        return Reading(sum(answer.generated_tokens for answer in answers) / seconds, answers)

    return await compare(stage, CONTEXT_TOKENS, make, measure)


async def equal_requests(stage: Stage) -> Measured:
    """A small request that comes again and again."""

    def make(random: Random) -> Plan:
        prompt = stage.prompter.listing(random, SHORT_PROMPT_TOKENS)
        return [Request(prompt, 4)] * (EQUAL_REQUESTS + 1)

    async def measure(client: Client, plan: Plan) -> Reading:
        answers = [await client.ask(request) for request in plan]
        seconds = sorted(answer.total_s for answer in answers[1:])
        return Reading((seconds[EQUAL_REQUESTS // 2 - 1] + seconds[EQUAL_REQUESTS // 2]) / 2, answers)

    return await compare(stage, CONTEXT_TOKENS, make, measure)


async def late_prompt(stage: Stage) -> Measured:
    """Seven answers are being generated when a long prompt comes: the longest pause in one of them."""

    def make(random: Random) -> Plan:
        prompts = [stage.prompter.listing(random, SHORT_PROMPT_TOKENS) for _ in range(STREAMS - 1)]
        late = Request(stage.prompter.listing(random, stage.long(6000)), 2)
        return [*(Request(prompt, 160) for prompt in prompts), late]

    async def measure(client: Client, plan: Plan) -> Reading:
        answers, late = await client.ask_late(plan[:-1], plan[-1])
        gaps_s = [gap_s for answer in answers for gap_s in answer.gaps_s(late.sent_s)]
        return Reading(max(gaps_s, default=0.0), [*answers, late])

    return await compare(stage, CONTEXT_TOKENS, make, measure)
