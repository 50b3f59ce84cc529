"""A long session of an agent, made to fit: old tool results give way to less, and everything else stays.

What is shortened follows from the conversation alone. The session is gone through from its start, request by
request as the client sent them, and shortened where it had to be then; so the same history always gives the
same bytes, in the next turn, after a restart and on another machine, and the engine finds its prefix.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from server.domain.chat import Message
from server.routing.digest import with_digest
from server.routing.facts import IDENTIFIER
from server.routing.outline import Outline, note, outline_of
from server.routing.results import Key, Kind, Result, results_of, rewritten

AHEAD_SHARE, START_SHARE, GOAL_SHARE, LIMIT_SHARE, BRIM_SHARE = 0.5, 0.75, 0.45, 0.9, 0.95
"""Of the window: where the helper begins to read ahead, where shortening starts, how far it goes, where it is
no longer put off, and where outlines go as well."""

WORTHWHILE = 2.0
"""A step is put off until it saves so many tokens for each that the model must read again because of it."""

LAST_TURNS = 2
"""So many of the agent's last turns stay, or one where the chat would not fit otherwise."""

LEAST_CHARS = 400
"""Shorter results are left alone."""

TRIES = 6
"""So often it is counted how many numbers of the outlines the goal has room for."""

ANSWER_TOKENS = 512

MESSAGE_TOKENS = 6
"""What templates put around a message."""

NEWER_FILE = (
    "[Shortened: an older copy. {subject} was read or saved again; its newest text is further below.]"
)
SAME_AGAIN = "[Shortened: the same text is further below, as the newest result of {what}.]"
NEWER_SURROUNDINGS = "\n[Shortened: the newest are further below.]\n"
_MARKS_OF_CLIENTS = ("[outdated", "Context summary:", "<SYSTEM_NOTICE", "[Shortened:")


def answer_room(window_tokens: int) -> int:
    """Room that an answer of unknown length should find in a window."""
    return min(ANSWER_TOKENS, window_tokens // 4)


class Rung(StrEnum):
    """How something was shortened, the safest first."""

    NEWER_COPY = "newer copy"
    OUTLINE = "outline"
    SUMMARY = "summary"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Marks:
    """In tokens of the whole prompt: beyond ``start`` results are shortened until it has ``goal``.

    A step that makes the model read much again for what it saves waits until the prompt has ``limit``; where
    that is not enough to stay below ``brim``, the oldest outlines become notes.
    """

    start: int
    goal: int
    limit: int
    brim: int

    @classmethod
    def of(cls, window_tokens: int) -> "Marks":
        """The marks of a context window."""
        limit, brim = int(LIMIT_SHARE * window_tokens), int(BRIM_SHARE * window_tokens)
        # Prompts are counted piece by piece here, which is a little less than they take.
        with_answer = window_tokens - 2 * answer_room(window_tokens)
        return cls(
            start=int(START_SHARE * window_tokens),
            goal=int(GOAL_SHARE * window_tokens),
            limit=limit,
            brim=max(limit, min(brim, with_answer)),
        )


@dataclass(frozen=True, slots=True)
class Shortening:
    """One result in other words; of an ``outline`` so many ``units`` of what it mentions."""

    result: Result
    rung: Rung
    text: str
    outline: Outline | None = None
    units: int = 0

    def with_units(self, units: int) -> "Shortening":
        """The same with fewer of them."""
        if self.outline is None or units >= self.units:
            return self
        return replace(self, text=self.outline.text(units), units=units)


@dataclass(frozen=True, slots=True)
class Squeezed:
    """The conversation as the model will read it, after so many ``steps``. ``tokens`` is an estimate."""

    messages: tuple[Message, ...]
    shortenings: tuple[Shortening, ...]
    tokens: int
    steps: int


Outliner = Callable[[Result, frozenset[str]], Outline | None]
"""What :func:`server.routing.outline.outline_of` does."""


def no_words(_result: Result) -> str | None:
    """Of a helper that was never asked."""
    return None


def squeeze(
    messages: Sequence[Message],
    frame_tokens: int,
    marks: Marks,
    count: Callable[[str], int],
    *,
    words_of: Callable[[Result], str | None] = no_words,
    outline: Outliner = outline_of,
) -> Squeezed:
    """Shorten old tool results wherever the session passed ``marks``, up to now.

    ``count`` gives the tokens of a text, and ``frame_tokens`` are those of the tools and all else that the
    template puts around the messages. ``words_of`` is what the helper says of a result, and must say the
    same whenever it is asked; ``outline`` may remember what it gave before.
    System prompts, tasks and words of the user, the model's words and calls, the number, order and ids of
    results, edits, errors, the last turns and the newest text of each file that they name stay as they are.
    """
    users = [place for place, message in enumerate(messages) if message.role == "user"]
    task = next(iter(users), -1)
    session = _Session(
        tuple(messages), results_of(messages), marks, count, words_of, outline, task, frame_tokens
    )
    session.go_through()
    return Squeezed(
        tuple(session.rewritten(place) for place in range(len(messages))),
        tuple(session.shortenings.values()),
        session.total,
        session.steps,
    )


@dataclass(slots=True)
class _Session:
    messages: tuple[Message, ...]
    results: tuple[Result, ...]
    marks: Marks
    count: Callable[[str], int]
    words_of: Callable[[Result], str | None]
    outline: Outliner
    task: int
    total: int
    shortenings: dict[Key, Shortening] = field(default_factory=dict)
    steps: int = 0

    def go_through(self) -> None:
        """Every request that this conversation was made of, the last one included."""
        read = 0
        for border in _requests(self.messages):
            self.total += sum(self._tokens(message) for message in self.messages[read:border])
            read = border
            if self.total > self.marks.start:
                self._step(border)

    def rewritten(self, place: int) -> Message:
        """A message as it is now."""
        texts = {
            key.part: shortening.text for key, shortening in self.shortenings.items() if key.message == place
        }
        return rewritten(self.messages[place], texts)

    def _step(self, border: int) -> None:
        """Shorten what may be shortened in the request that ends at ``border``, unless that can wait."""
        before, total = dict(self.shortenings), self.total
        self._climb(border, LAST_TURNS)
        if total > self.marks.limit:
            # A step that cannot wait is a large one, so that the next is far.
            self._thin_out(self.shortenings)
        for turns in (LAST_TURNS, 1):
            if self.total > self.marks.limit:
                self._climb(border, turns, spare_files=False)
        if self.total > self.marks.limit:
            # What stands before them was read already.
            self._leave_names_out(self.shortenings.keys() - before.keys())
        if self.total > self.marks.brim:
            self._leave_names_out(self.shortenings)
        if self.total > self.marks.brim:
            self._leave_notes()
        changed = [key for key, shortening in self.shortenings.items() if before.get(key) != shortening]
        if not changed:
            return
        first = min(changed).message
        read_again = sum(self._tokens(self.rewritten(place)) for place in range(first, border))
        if total > self.marks.limit or total - self.total >= WORTHWHILE * read_again:
            self.steps += 1
        else:
            self.shortenings, self.total = before, total

    def _climb(self, border: int, turns: int, *, spare_files: bool = True) -> None:
        applied: list[Key] = []
        for shortening in self._ladder(border, turns, spare_files=spare_files):
            self._apply(shortening)
            applied.append(shortening.result.key)
            if shortening.rung is not Rung.NEWER_COPY and self.total <= self.marks.goal:
                return
        self._thin_out(applied)

    def _thin_out(self, keys: Iterable[Key]) -> None:
        """Of some outlines only as many of the numbers stay as the goal has room for."""
        full = [self.shortenings[key] for key in keys if self.shortenings[key].outline]
        numbers = _by_worth(full)
        if self.total <= self.marks.goal or not numbers:
            return
        most, over = len(numbers), self.total
        self._keep(full, ())
        least, room = 0, self.marks.goal - self.total
        for _ in range(TRIES):
            tried = least + (most - least) * room // max(over - self.marks.goal + room, 1)
            if tried <= least:
                break
            self._keep(full, numbers[:tried])
            if self.total <= self.marks.goal:
                least, room = tried, self.marks.goal - self.total
            else:
                most, over = tried, self.total
        self._keep(full, numbers[:least])

    def _keep(self, shortenings: Sequence[Shortening], numbers: Sequence[Key]) -> None:
        """Of each outline its names, and as many numbers as it is named in ``numbers``."""
        kept = Counter(numbers)
        for one in shortenings:
            if one.outline:
                units = min(one.units, one.outline.names + kept[one.result.key])
                self._apply(one.with_units(units))

    def _leave_names_out(self, keys: Collection[Key]) -> None:
        """Of the oldest outlines only the lines stay, as far as that is needed."""
        for key in [key for key in self.shortenings if key in keys]:
            if self.total <= self.marks.goal:
                break
            self._apply(self.shortenings[key].with_units(0))

    def _leave_notes(self) -> None:
        """Nothing is left of the oldest outlines but that there was something, as far as that is needed."""
        for shortening in list(self.shortenings.values()):
            if self.total <= self.marks.goal:
                break
            if shortening.rung in (Rung.OUTLINE, Rung.SUMMARY):
                self._apply(Shortening(shortening.result, Rung.NOTE, note(shortening.result.text)))

    def _ladder(self, border: int, turns: int, *, spare_files: bool) -> Iterator[Shortening]:
        """What can be done, the safest first; of outlines the oldest first, as far as they are needed."""
        recent = _recent_turns(self.messages[:border], turns)
        old = [
            result for result in self._seen(border) if result.key.message < recent and self._may_go(result)
        ]
        newer = {result.key: self._newer_copy(result, border) for result in old}
        for result in old:
            if newer[result.key]:
                yield Shortening(result, Rung.NEWER_COPY, newer[result.key])
        if self.total <= self.marks.goal:
            return
        words = self._words_since(recent, border)
        needed = self._newest_files_in(words, border) if spare_files else set()
        wanted = frozenset(IDENTIFIER.findall(words))
        going = [result for result in old if not newer[result.key] and result.key not in needed]
        for result in going:
            if outline := self.outline(result, wanted):
                units = len(outline.worths)
                yield self._summary(result, outline) or Shortening(
                    result, Rung.OUTLINE, outline.text(units), outline, units
                )

    def _summary(self, result: Result, outline: Outline) -> Shortening | None:
        words = self.words_of(result)
        text = with_digest(outline.text(0), words, result) if words else None
        return Shortening(result, Rung.SUMMARY, text) if text else None

    def _may_go(self, result: Result) -> bool:
        """Whether a result is long enough, no edit, no error, and not shortened before, by whomever.

        What an editor tells beside the task is part of it: it may hold a list of all files.
        """
        return (
            result.key not in self.shortenings
            and result.key.message > self.task
            and result.kind is not Kind.EDIT
            and not result.failed
            and (len(result.text) >= LEAST_CHARS or result.kind is Kind.SURROUNDINGS)
            and not result.text.lstrip().startswith(_MARKS_OF_CLIENTS)
        )

    def _newer_copy(self, result: Result, border: int) -> str:
        """What stands for a result that is further below once more, or newer; empty if it is not."""
        later = [other for other in self._seen(border) if other.key > result.key and not other.failed]
        if result.kind is Kind.SURROUNDINGS:
            newest = any(other.kind is Kind.SURROUNDINGS for other in later)
            return NEWER_SURROUNDINGS if newest and len(result.text) > len(NEWER_SURROUNDINGS) else ""
        if result.kind is Kind.FILE and any(_covers(other, result) for other in later):
            return NEWER_FILE.format(subject=result.subject)
        if any(other.text == result.text for other in later):
            return SAME_AGAIN.format(what=f"{result.tool} {result.subject}".strip() or "a tool")
        return ""

    def _newest_files_in(self, words: str, border: int) -> set[Key]:
        """The newest whole text of each file that is named in ``words``."""
        newest = {
            result.subject: result.key
            for result in self._seen(border)
            if result.kind is Kind.FILE and result.whole and not result.failed
        }
        return {key for path, key in newest.items() if _is_named(path, words)}

    def _words_since(self, place: int, border: int) -> str:
        """What the model said and called from a message on, and the user's last words."""
        users = [message for message in self.messages[:border] if message.role == "user"]
        said = [message for message in self.messages[place:border] if message.role == "assistant"]
        return "\n".join(map(_words, [*users[-1:], *said]))

    def _seen(self, border: int) -> list[Result]:
        return [result for result in self.results if result.key.message < border]

    def _apply(self, shortening: Shortening) -> None:
        place = shortening.result.key.message
        before = self._tokens(self.rewritten(place))
        self.shortenings[shortening.result.key] = shortening
        self.total += self._tokens(self.rewritten(place)) - before

    def _tokens(self, message: Message) -> int:
        return message_tokens(message, self.count)


def message_tokens(message: Message, count: Callable[[str], int]) -> int:
    """About what a message takes in a prompt."""
    return MESSAGE_TOKENS + count(_words(message)) + count(message.thinking)


def _by_worth(shortenings: Sequence[Shortening]) -> list[Key]:
    """For each unit of numbers in some outlines the key of its result: cheap ones first, then those of the
    newest results."""
    numbers = [
        (worth, one.result.key)
        for one in reversed(shortenings)
        if one.outline
        for worth in one.outline.worths[one.outline.names : one.units]
    ]
    return [key for _, key in sorted(numbers, key=lambda number: number[0])]


def _requests(messages: Sequence[Message]) -> Iterator[int]:
    """How many messages each request had: an answer came behind them, or they are all."""
    yield from (place for place, message in enumerate(messages) if place and message.role == "assistant")
    yield len(messages)


def _recent_turns(messages: Sequence[Message], turns: int) -> int:
    """Where the last ``turns`` begin: an answer of the model with all that follows it."""
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    return answers[-turns] if len(answers) >= turns else 0


def _covers(newer: Result, older: Result) -> bool:
    return newer.kind is Kind.FILE and newer.whole and bool(older.subject) and newer.subject == older.subject


def _is_named(path: str, words: str) -> bool:
    name = re.split(r"[/\\]", path)[-1]
    return bool(name) and re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", words) is not None


def _words(message: Message) -> str:
    calls = (
        f"\n{call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}" for call in message.tool_calls
    )
    return message.content + "".join(calls)
