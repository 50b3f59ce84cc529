"""The comparison, line by line: what is asked, what is measured, and how it must turn out."""

from random import Random
from time import perf_counter

from bench.client import Client
from bench.figures import Bar, Better, Measured
from bench.stage import Plan, Reading, Scenario, Stage, compare
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


SCENARIOS = (
    Scenario("one-stream", "one stream, 128 tokens", "decode, tok/s", Bar(Better.HIGHER, 1.0), 7, one_stream),
    Scenario("cold-1400", "cold prompt, 1.4K tokens", "first token, s", Bar(Better.LOWER, 1.0), 5, cold_1400),
    Scenario("cold-6000", "cold prompt, 6K tokens", "first token, s", Bar(Better.LOWER, 1.0), 2, cold_6000),
    Scenario("eight-streams", "8 streams at once", "all, tok/s", Bar(Better.HIGHER, 1.05), 5, eight_streams),
    Scenario(
        "equal-requests",
        "short prompt, warm, 4 tokens",
        "median, s",
        Bar(Better.LOWER, 0.85),
        5,
        equal_requests,
    ),
)
