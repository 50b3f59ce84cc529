"""What is done to a cluster: talk with it, kill one of its processes, replace all, pour text through it."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx

from bench.cluster.own_cluster import OwnCluster, own_cluster
from bench.cluster.talking import ANSWER_TOKENS, TIMEOUT_S, Conversation, Turn, hit_share

KILLED_AFTER_TURNS = 2
LONG_ANSWER_TOKENS = 96
BACK_S = 120
IDLE_S = 5.0


@dataclass(frozen=True)
class Talked:
    """Conversations under one policy."""

    policy: str
    ingresses: int
    turns: tuple[Turn, ...]
    seconds: float

    @property
    def share(self) -> float:
        """Of the later turns: how many found all of their conversation read."""
        return hit_share(self.turns) or 0.0

    @property
    def read_tokens(self) -> int:
        """What had to be read of all prompts."""
        return sum(turn.prompt_tokens - turn.cached_tokens for turn in self.turns)

    @property
    def prompt_tokens(self) -> int:
        """All prompts."""
        return sum(turn.prompt_tokens for turn in self.turns)

    @property
    def lost(self) -> list[str]:
        """Why answers did not begin."""
        return [turn.lost for turn in self.turns if turn.lost]


@dataclass(frozen=True)
class Disturbed:
    """Conversations while something happened to the cluster."""

    what: str
    turns: tuple[Turn, ...]
    next_turns: tuple[Turn, ...]
    """The first good turn after it of the conversations that were with the replica that went."""
    whole_again_s: float

    @property
    def lost(self) -> list[str]:
        """Why answers did not begin."""
        return [turn.lost for turn in self.turns if turn.lost]

    @property
    def broken(self) -> int:
        """Answers that ended by an error after they had begun."""
        return sum(turn.broken for turn in self.turns)


@dataclass(frozen=True)
class Poured:
    """Streams, and what proxy and ingress used of the processor for them."""

    pieces: int
    requests: int
    way_in_cpu_s: float
    seconds: float
    empty_request_cpu_s: float
    """Proxy's and ingress's time for a request that hardly costs anything else."""


def talk(model: Path, policy: str, conversations: int, turns: int, ingresses: int) -> Talked:
    """Hold ``conversations`` at the same time, each of so many ``turns``."""
    with own_cluster(model, policy, ingresses=ingresses) as cluster:
        begun_s = time.perf_counter()
        made = asyncio.run(_talk(cluster, conversations, turns))
        return Talked(policy, ingresses, tuple(made), time.perf_counter() - begun_s)


def kill_one(model: Path, conversations: int, turns: int) -> Disturbed:
    """End one service's process with SIGKILL while it answers."""
    with own_cluster(model, "prefix") as cluster:
        return asyncio.run(_killed(cluster, conversations, turns))


def replace_all(model: Path, conversations: int, turns: int) -> Disturbed:
    """Replace all replicas one after the other while they answer."""
    with own_cluster(model, "prefix") as cluster:
        return asyncio.run(_replaced(cluster, conversations, turns))


def pour(model: Path, streams: int) -> Poured:
    """Stream long answers, and ask for nearly nothing many times."""
    with own_cluster(model, "prefix") as cluster:
        return asyncio.run(_poured(cluster, streams))


async def _talk(cluster: OwnCluster, number: int, turns: int) -> list[Turn]:
    async with _client() as client:
        talks = [Conversation(one, cluster.url, client) for one in range(number)]
        await asyncio.gather(*(_go_on(one, turns, stream=bool(one.number % 2)) for one in talks))
        return [turn for one in talks for turn in one.turns]


async def _go_on(talk: Conversation, turns: int, *, stream: bool, answer_tokens: int = ANSWER_TOKENS) -> None:
    for _ in range(turns):
        await talk.say(stream=stream, answer_tokens=answer_tokens)


async def _killed(cluster: OwnCluster, number: int, turns: int) -> Disturbed:
    async with _client() as client:
        talks = await _begun(cluster, client, number)
        going = [
            asyncio.create_task(
                _go_on(one, turns, stream=bool(one.number % 2), answer_tokens=LONG_ANSWER_TOKENS)
            )
            for one in talks
        ]
        await _until_answers(talks, KILLED_AFTER_TURNS + 1)
        os.kill(cluster.service_pids()[0], signal.SIGKILL)
        killed_s = time.perf_counter()
        whole_again_s = await _whole_again(cluster, client, killed_s, 2)
        await asyncio.gather(*going)
    made = [turn for one in talks for turn in one.turns]
    return Disturbed("one process killed", tuple(made), _after_a_move(talks), whole_again_s)


async def _replaced(cluster: OwnCluster, number: int, turns: int) -> Disturbed:
    async with _client() as client:
        talks = await _begun(cluster, client, number)
        begun_s = time.perf_counter()
        cluster.replace_all()
        replaced = asyncio.create_task(asyncio.to_thread(cluster.wait_for, "replaced"))
        done = 0
        while not replaced.done() or done < turns:
            await asyncio.gather(*(one.say(stream=bool(one.number % 2)) for one in talks))
            done += 1
        await replaced
        seconds = time.perf_counter() - begun_s
    made = [turn for one in talks for turn in one.turns]
    return Disturbed("all replaced in turn", tuple(made), _after_a_move(talks), seconds)


async def _begun(cluster: OwnCluster, client: httpx.AsyncClient, number: int) -> Sequence[Conversation]:
    talks = [Conversation(one, cluster.url, client) for one in range(number)]
    await asyncio.gather(*(_go_on(one, KILLED_AFTER_TURNS, stream=False) for one in talks))
    return talks


async def _until_answers(talks: Sequence[Conversation], turns: int) -> None:
    """Until a quarter of the conversations have so many: then the others are in the middle of theirs."""
    while sum(len(one.turns) >= turns for one in talks) < len(talks) / 4:  # noqa: ASYNC110
        await asyncio.sleep(0.05)  # nobody tells when a turn has ended


async def _whole_again(
    cluster: OwnCluster, client: httpx.AsyncClient, since_s: float, replicas: int
) -> float:
    while time.perf_counter() - since_s < BACK_S:
        await asyncio.sleep(0.5)
        try:
            answer = await client.get(f"{cluster.url}/health/ready", timeout=15)
            told = answer.json().get("replicas", {})
        except (httpx.HTTPError, ValueError):
            continue
        if sum(one.get("ready", False) for one in told.values()) == replicas:
            return time.perf_counter() - since_s
    return float("inf")


def _after_a_move(talks: Sequence[Conversation]) -> tuple[Turn, ...]:
    """The turns that another replica answered than the one before, the conversation's own being gone."""
    moved = []
    for one in talks:
        good = [turn for turn in one.turns if turn.good]
        moved += [later for earlier, later in pairwise(good) if later.replica != earlier.replica]
    return tuple(moved)


async def _poured(cluster: OwnCluster, streams: int) -> Poured:
    async with _client() as client:
        talks = [Conversation(one, cluster.url, client) for one in range(streams)]
        idle = await _idle_cpu(cluster)
        before_s, begun_s = cluster.way_in_cpu_s(), time.perf_counter()
        await asyncio.gather(*(_go_on(one, 2, stream=True, answer_tokens=200) for one in talks))
        seconds, used_s = time.perf_counter() - begun_s, cluster.way_in_cpu_s() - before_s
        used_s -= idle * seconds
        empty_s = await _empty_requests(cluster, client, idle)
    turns = [turn for one in talks for turn in one.turns]
    return Poured(sum(turn.pieces for turn in turns), len(turns), used_s, seconds, empty_s)


async def _idle_cpu(cluster: OwnCluster) -> float:
    """Seconds of processor time in each second without a request."""
    before_s, begun_s = cluster.way_in_cpu_s(), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    return (cluster.way_in_cpu_s() - before_s) / (time.perf_counter() - begun_s)


async def _empty_requests(
    cluster: OwnCluster, client: httpx.AsyncClient, idle: float, number: int = 400
) -> float:
    before_s, begun_s, gate = cluster.way_in_cpu_s(), time.perf_counter(), asyncio.Semaphore(8)

    async def one() -> None:
        async with gate:
            (await client.get(f"{cluster.url}/api/version")).raise_for_status()

    await asyncio.gather(*(one() for _ in range(number)))
    used_s = cluster.way_in_cpu_s() - before_s
    return (used_s - idle * (time.perf_counter() - begun_s)) / number


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=64))
