"""Values hidden in a session's files and logs, at chosen depths, and the questions for them. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from bench.fidelity.sessions import Request
from bench.fidelity.texts import stands_in, with_texts, without_line_numbers
from server.domain.chat import Message
from server.routing.results import Kind, Result, results_of

DEPTHS = (0, 25, 50, 75, 100)
"""Percent of the way through the session's files, or logs: 0 is the oldest."""

_COLOURS = "amber cobalt crimson indigo ivory jade khaki magenta ochre olive sienna teal umber violet"
_BIRDS = "avocet bittern curlew dunlin egret fulmar gannet heron kestrel lapwing merlin osprey plover"
LEAST_LOG_LINES = 15
_DEFINITION = re.compile(r"(?:class|def) \w")


@dataclass(frozen=True)
class Hidden:
    """A line for a file (``in_code``) or a log, so many percent of the way through the session."""

    line: str
    depth: int
    in_code: bool = True


@dataclass(frozen=True)
class Needle:
    """What is hidden, and the question whose answer must contain all ``values``."""

    form: str
    depth: int | None
    hidden: tuple[Hidden, ...]
    question: str
    values: tuple[str, ...]

    def stands_in(self, text: str) -> bool:
        """Whether a model that reads ``text`` could know."""
        return all(stands_in(hidden.line, text) for hidden in self.hidden)

    def is_answered_by(self, answer: str) -> bool:
        """Whether every value was said."""
        return all(stands_in(value, answer) for value in self.values)


def needles(random: Random, depths: Sequence[int] = DEPTHS) -> Iterator[Needle]:
    """One constant and one line of a log for each depth, three constants at once, and chains of two."""
    pairs = [f"{one}_{two}".upper() for one in _COLOURS.split() for two in _BIRDS.split()]
    names = iter(random.sample(pairs, 64))
    numbers = iter(random.sample(range(10_000, 99_999), 64))
    for depth in depths:
        yield _constant(next(names), next(numbers), depth)
        yield _log_line(next(names), next(numbers), depth)
    yield _several([(next(names), next(numbers), depth) for depth in (10, 50, 90)])
    for first, second in ((20, 60), (60, 20)):
        yield _chain(next(names), next(names), next(numbers), (first, second))


def can_hold_needles(request: Request) -> bool:
    """Whether a session has more than one file and more than one log to hide something in."""
    return all(len(_holders(request.messages, in_code=in_code)) > 1 for in_code in (True, False))


def planted(request: Request, hidden: Sequence[Hidden], random: Random) -> Request:
    """The session with every hidden line in one of its tool results."""
    messages = request.messages
    for one in hidden:
        messages = _with_line(messages, one, random)
    return Request(messages, request.tools)


def asked(request: Request, question: str) -> Request:
    """The session, an answer of the agent, and the question as the user's last words."""
    done = Message("assistant", "I have looked through all of it.")
    return Request((*request.messages, done, Message("user", question)), request.tools)


def _constant(name: str, number: int, depth: int) -> Needle:
    question = f"What is the value of {name}? Answer with the value only."
    return Needle("constant", depth, (Hidden(f"{name} = {number}", depth),), question, (str(number),))


def _log_line(name: str, number: int, depth: int) -> Needle:
    holder = name.lower().replace("_", "-")
    line = f"12:00:00 INFO registry: the access number of {holder} is {number}"
    question = f"According to the log, what is the access number of {holder}? Answer with the number only."
    return Needle("log line", depth, (Hidden(line, depth, in_code=False),), question, (str(number),))


def _several(constants: Sequence[tuple[str, int, int]]) -> Needle:
    names = ", ".join(name for name, _, _ in constants)
    hidden = tuple(Hidden(f"{name} = {number}", depth) for name, number, depth in constants)
    question = f"What are the values of {names}? Answer with the three values only."
    return Needle("several", None, hidden, question, tuple(str(number) for _, number, _ in constants))


def _chain(name: str, other: str, number: int, depths: tuple[int, int]) -> Needle:
    hidden = (Hidden(f"{name} = {other}", depths[0]), Hidden(f"{other} = {number}", depths[1]))
    question = f"{name} is set to another constant. Which number is its value? Answer with the number only."
    return Needle("chained", None, hidden, question, (str(number),))


def _with_line(messages: tuple[Message, ...], hidden: Hidden, random: Random) -> tuple[Message, ...]:
    holders = _holders(messages, in_code=hidden.in_code)
    holder = holders[round(hidden.depth / 100 * (len(holders) - 1))]
    lines = without_line_numbers(holder.text).splitlines()
    if hidden.in_code:
        places = [place for place, line in enumerate(lines) if _DEFINITION.match(line)]
        lines.insert(random.choice(places), hidden.line)
        return with_texts(messages, {holder.key: numbered(lines)})
    lines.insert(random.randrange(LEAST_LOG_LINES // 3, len(lines) - LEAST_LOG_LINES // 3), hidden.line)
    return with_texts(messages, {holder.key: "\n".join(lines)})


def numbered(lines: Sequence[str]) -> str:
    """Lines as Cline shows those of a file."""
    width = len(str(len(lines)))
    return "\n".join(f"{number:>{width}} | {line}" for number, line in enumerate(lines, 1))


def _holders(messages: Sequence[Message], *, in_code: bool) -> list[Result]:
    return [result for result in results_of(messages) if _can_hold(result, in_code=in_code)]


def _can_hold(result: Result, *, in_code: bool) -> bool:
    if in_code:
        code = without_line_numbers(result.text)
        return result.kind is Kind.FILE and any(map(_DEFINITION.match, code.splitlines()))
    is_log = result.kind is Kind.OUTPUT and ".log" in result.subject
    return is_log and len(result.text.splitlines()) >= LEAST_LOG_LINES
