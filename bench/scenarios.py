"""The comparison, line by line: what is measured, and how it must turn out."""

from bench import copying, lives, streams, tasks
from bench.figures import Bar, Better
from bench.stage import Scenario

DECODE, FIRST_TOKEN, FIRST_TOKENS = "decode, tok/s", "first token, s", "first tokens, sum, s"


def at_least(ratio: float) -> Bar:
    """More is better."""
    return Bar(Better.HIGHER, ratio)


def at_most(ratio: float) -> Bar:
    """Less is better."""
    return Bar(Better.LOWER, ratio)


SCENARIOS = (
    Scenario("one-stream", "one stream, 128 tokens", DECODE, at_least(1.0), 7, streams.one_stream),
    Scenario("cold-1400", "cold prompt, 1.4K tokens", FIRST_TOKEN, at_most(1.0), 5, streams.cold_1400),
    Scenario("cold-6000", "cold prompt, 6K tokens", FIRST_TOKEN, at_most(1.0), 2, streams.cold_6000),
    Scenario("eight-streams", "8 streams at once", "all, tok/s", at_least(1.05), 5, streams.eight_streams),
    Scenario(
        "late-prompt", "6K prompt beside 7 streams", "longest gap, s", at_most(0.7), 1, streams.late_prompt
    ),
    Scenario("shared", "8 tasks, 4.5K in common", FIRST_TOKENS, at_most(0.35), 1, tasks.shared_instructions),
    Scenario("equal", "equal short requests", "median, s", at_most(0.85), 5, streams.equal_requests),
    Scenario("write-back", "file written back", DECODE, at_least(2.0), 3, copying.write_back),
    Scenario(
        "write-back-ngram",
        "file written back, both guess",
        DECODE,
        at_least(1.1),
        3,
        copying.write_back_guessing,
    ),
    Scenario("session", "recorded session", FIRST_TOKENS, at_most(1.0), 1, tasks.one_session),
    Scenario("four-sessions", "4 sessions, room for 2", FIRST_TOKENS, at_most(0.7), 1, tasks.four_sessions),
    Scenario("restart", "first task after a restart", FIRST_TOKEN, at_most(0.15), 2, lives.restart),
    Scenario("start", "start to first answer", "s", at_most(1.2), 5, lives.start),
    Scenario("memory", "memory after 200 requests", "MiB beyond the model", at_most(1.0), 1, lives.memory),
)


def markdown() -> str:
    """The scenarios as the README lists them."""
    rows = [
        f"| `{scenario.name}` | {scenario.what} | {scenario.figure} | {scenario.bar} |"
        for scenario in SCENARIOS
    ]
    return "\n".join(("| name | what | figure | bar |", "|---|---|---|---|", *rows)) + "\n"
