"""Conversations as clients hold them: each turn brings along all that was said before."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from bench.cluster.own_cluster import MODEL
from bench.prompts import PLACES, THINGS, VERBS, repeatable

LINES_OF_A_TURN = 7
ANSWER_TOKENS = 12
SLACK_TOKENS = 8
"""The end of a prompt may be told otherwise once an answer follows it."""

TIMEOUT_S = 300
_SYSTEM = "You keep the books of a warehouse. Answer in one short sentence, and repeat no list."
_REPLICA = "x-llm-optimizer-replica"


@dataclass(frozen=True)
class Turn:
    """One answer. ``before_tokens`` is what the turn before had for a prompt: all of it is read already,
    where it was read. ``broken``: it began, and ended by an error. ``lost``: it did not begin."""

    number: int
    replica: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    before_tokens: int = 0
    seconds: float = 0.0
    pieces: int = 0
    broken: bool = False
    lost: str = ""

    @property
    def good(self) -> bool:
        """Whether the answer came to its end."""
        return not (self.broken or self.lost)

    @property
    def hit(self) -> bool:
        """Whether all that the conversation's last turn had read was there."""
        return self.cached_tokens >= self.before_tokens - SLACK_TOKENS


@dataclass
class Conversation:
    """One client. Turns go out one after the other; a broken one is not part of what was said."""

    number: int
    url: str
    client: httpx.AsyncClient
    messages: list[dict[str, str]] = field(default_factory=lambda: [{"role": "system", "content": _SYSTEM}])
    turns: list[Turn] = field(default_factory=list)

    async def say(self, *, stream: bool, answer_tokens: int = ANSWER_TOKENS) -> Turn:
        """One turn; noted in ``turns``."""
        number = len(self.turns) + 1
        asked = [*self.messages, {"role": "user", "content": _report(self.number, number)}]
        body = {
            "model": MODEL,
            "messages": asked,
            "max_tokens": answer_tokens,
            "temperature": 0,
            "stream": stream,
            "stream_options": {"include_usage": True},
        }
        begun_s = time.perf_counter()
        heard = _Heard()
        lost = await self._ask(body, heard)
        good = bool(heard.usage)
        before = next((turn.prompt_tokens for turn in reversed(self.turns) if turn.good), 0)
        turn = Turn(
            number,
            heard.replica,
            heard.usage.get("prompt_tokens", 0),
            (heard.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            before,
            time.perf_counter() - begun_s,
            heard.pieces,
            broken=not good and heard.pieces > 0,
            lost=lost if not good and not heard.pieces else "",
        )
        if good:
            self.messages = [*asked, {"role": "assistant", "content": heard.text}]
        self.turns.append(turn)
        return turn

    async def _ask(self, body: dict[str, Any], heard: "_Heard") -> str:
        """Ask; returns why nothing came, if so."""
        try:
            async with self.client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
                heard.replica = answer.headers.get(_REPLICA, "")
                if answer.status_code != httpx.codes.OK:
                    return f"status {answer.status_code}: {(await answer.aread()).decode()[:200]}"
                if body["stream"]:
                    await heard.events(answer.aiter_lines())
                else:
                    heard.whole(json.loads(await answer.aread()))
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return "" if heard.usage else "no end"


class _Heard:
    """What has come of an answer."""

    def __init__(self) -> None:
        self.replica = ""
        self.text = ""
        self.pieces = 0
        self.usage: dict[str, Any] = {}

    async def events(self, lines: AsyncIterator[str]) -> None:
        async for text in lines:
            data = text.removeprefix("data: ")
            if data in (text, "[DONE]"):
                continue
            event = json.loads(data)
            self.pieces += 1
            self.usage = event.get("usage") or self.usage
            if event.get("error"):
                self.usage = {}
                return
            for choice in event.get("choices", ()):
                self.text += choice["delta"].get("content") or ""

    def whole(self, answer: dict[str, Any]) -> None:
        self.text, self.usage = answer["choices"][0]["message"]["content"], answer["usage"]


def hit_share(turns: Sequence[Turn]) -> float | None:
    """Of the turns that follow another: how many found all of it read. None: there are none."""
    later = [turn for turn in turns if turn.good and turn.before_tokens]
    return sum(turn.hit for turn in later) / len(later) if later else None


def _report(conversation: int, number: int) -> str:
    random = repeatable(f"{conversation}/{number}")
    lines = [_line(random) for _ in range(LINES_OF_A_TURN)]
    return f"Report {number} of round {conversation}. {' '.join(lines)} What should be done next?"


def _line(random: Random) -> str:
    verb, thing, place = random.choice(VERBS), random.choice(THINGS), random.choice(PLACES)
    return f"We {verb} {random.randrange(1000)} {thing} at {place} {random.randrange(100)}."
