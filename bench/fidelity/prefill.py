"""How many tokens a session makes a model read, where the start that two prompts share is free. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.fidelity.reader import common_start
from bench.fidelity.sessions import Request
from server.domain.chat import Message
from server.routing.keep import message_chars

A_MAX, B_MAX = 2_000, 6_000
CHUNK_TOKENS = 2_000
SUMMARY_CHARS = 500
CHARS_A_TOKEN = 4
INSTRUCTION_TOKENS = 60
"""The seeds' own figures; the last is about what a prompt for a summary takes."""


@dataclass(frozen=True)
class Naive:
    """What one request costs the seeds' pipeline: ``calls`` of the helper, and the generator's prompt."""

    calls: int
    helper_read: int
    helper_written: int
    generator_read: int


def prefilled(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens that each prompt makes a server read that still holds the one before."""
    before: Sequence[int] = ()
    read = []
    for prompt in prompts:
        read.append(len(prompt) - common_start(before, prompt))
        before = prompt
    return read


def naive_session(
    requests: Sequence[Request], count: Callable[[str], int], tokens: Callable[[Request], int]
) -> list[Naive]:
    """The pipeline over a session: turns that go direct one after another share their beginning."""
    costs: list[Naive] = []
    direct = 0
    for request in requests:
        size = tokens(request)
        cost = naive(request, count, size)
        costs.append(cost if cost.calls else replace(cost, generator_read=max(size - direct, 0)))
        direct = 0 if cost.calls else size
    return costs


def naive(request: Request, count: Callable[[str], int], tokens: int) -> Naive:
    """The pipeline as the seeds describe it, on one request whose whole prompt has ``tokens``.

    Its estimate of the size goes by characters. The generator gets the summary and the last message, a new
    prompt in each turn; tools do not get that far.
    """
    estimate = sum(map(message_chars, request.messages)) // CHARS_A_TOKEN
    if estimate < A_MAX:
        return Naive(0, 0, 0, tokens)
    summary = SUMMARY_CHARS // CHARS_A_TOKEN
    last = _last_words(request.messages)
    material = sum(count(message.content) for message in request.messages)
    pieces = -(-material // CHUNK_TOKENS) if estimate > B_MAX else 1
    # More than one summary is reduced to one by another call.
    calls = pieces + 1 if pieces > 1 else 1
    read = material + calls * INSTRUCTION_TOKENS + (pieces * summary if pieces > 1 else 0)
    return Naive(calls, read, calls * summary, summary + INSTRUCTION_TOKENS + count(last))


def _last_words(messages: Sequence[Message]) -> str:
    """The last message of the user: a tool's result would be in the summary."""
    return next((message.content for message in reversed(messages) if message.role == "user"), "")
