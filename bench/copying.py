"""Scenarios about text that repeats its prompt: a file written back with one change."""

from random import Random

from bench.client import Client
from bench.figures import Measured
from bench.prompts import repeatable
from bench.servers import llama_server
from bench.stage import Plan, Reading, Skipped, Stage, pair_of_servers, take_turns, warm_up
from bench.wire import Request

CONTEXT_TOKENS = 8192
COPIED_TOKENS = 1000
WINDOW_TOKENS = 16_384

GUESSING = (
    "--spec-type ngram-simple --spec-draft-n-max 64",
    "--spec-type ngram-simple --spec-ngram-simple-size-n 6 --spec-ngram-simple-size-m 24"
    " --spec-draft-n-max 24",
    "--spec-type ngram-map-k --spec-ngram-map-k-size-n 8 --spec-ngram-map-k-size-m 24 --spec-draft-n-max 24",
    "--spec-type ngram-map-k4v --spec-ngram-map-k4v-size-n 8 --spec-ngram-map-k4v-size-m 16"
    " --spec-draft-n-max 16",
    "--spec-type ngram-mod",
    "--spec-type ngram-mod --spec-ngram-mod-n-match 12 --spec-ngram-mod-n-min 8 --spec-ngram-mod-n-max 24",
)
"""What llama-server offers for such text without a second model: its defaults and shorter sizes."""


async def write_back(stage: Stage) -> Measured:
    """Against llama-server as it is, which does not guess."""
    _check_able(stage)
    async with pair_of_servers(stage, CONTEXT_TOKENS) as servers:
        return await take_turns(stage, servers, lambda random: _plan(stage, random), _speed)


async def write_back_guessing(stage: Stage) -> Measured:
    """Against llama-server with that of its ways to guess which is the fastest here."""
    _check_able(stage)
    tried = {flags: await _tried(stage, flags) for flags in GUESSING}
    best = max(tried, key=lambda flags: tried[flags])
    async with pair_of_servers(stage, CONTEXT_TOKENS, *best.split()) as servers:
        measured = await take_turns(stage, servers, lambda random: _plan(stage, random), _speed)
    speeds = tuple(f"{flags}: {speed:.1f} tok/s when tried once" for flags, speed in tried.items())
    return Measured(
        measured.ours, measured.theirs, notes=(*measured.notes, f"llama-server with {best}", *speeds)
    )


async def _tried(stage: Stage, flags: str) -> float:
    async with llama_server(stage.binary, stage.setup(CONTEXT_TOKENS), *flags.split()) as server:
        await warm_up(stage, server)
        reading = await _speed(server.client, _plan(stage, repeatable("tried")))
        return reading.figure


def _check_able(stage: Stage) -> None:
    if stage.window_tokens < WINDOW_TOKENS:
        raise Skipped("so small a model copies no file")


def _plan(stage: Stage, random: Random) -> Plan:
    return [Request(stage.prompter.file_to_copy(random), COPIED_TOKENS)]


async def _speed(client: Client, plan: Plan) -> Reading:
    answer = await client.ask(plan[0])
    return Reading(answer.tokens_per_s, [answer])
