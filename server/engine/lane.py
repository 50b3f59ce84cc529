"""A running generation: what it has read, what it has said, and when."""

import codecs
import time
from dataclasses import dataclass, field

from server.domain.errors import ServiceError
from server.domain.generation import (
    EventSink,
    Failed,
    Finished,
    FinishReason,
    Generation,
    TextDelta,
    TokenScore,
    Usage,
)
from server.engine.drafts import Record
from server.engine.llamacpp.context import Logits
from server.engine.prefix import Held, Tokens, tokens_of
from server.engine.sampling import Sampler
from server.engine.scheduler import Candidate, LaneView
from server.engine.stops import StopScanner

NOWHERE = -1
"""The sequence number of a lane that has none."""


@dataclass(slots=True, eq=False)
class Job:
    """A generation on its way through the engine, with the way back to who asked for it."""

    number: int
    generation: Generation
    sink: EventSink
    cancelled: bool = False
    position: int = 0
    """Place in the queue, from 1; 0 for a job that runs."""
    submitted_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(slots=True, eq=False)
class Lane:
    """A job with its tokens: the prompt and all that was generated.

    The first ``held`` of them are in the KV cache, in ``sequence``. A lane is generating when only the
    token picked last is still to be read; ``guess`` is what may follow that token.
    """

    job: Job
    tokens: Tokens
    context_tokens: int
    sequence: int = NOWHERE
    held: int = 0
    reused: int = 0
    guess: list[int] = field(default_factory=list)
    expected: int | None = None
    """The token that would be guessed next, where guessing does not pay."""
    accepted: int = 0
    """How many tokens of the last guess were right."""
    record: Record = field(default_factory=Record)
    opening: Logits | None = None
    """What the model makes of the whole prompt, known before it is read."""
    borders: tuple[int, ...] = ()
    """Lengths at which what has been read is kept for others."""
    stops_at_borders: bool = False
    """Reads no further in one batch, because the model's state cannot be cut back later."""
    sampler: Sampler | None = None
    started_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    _spoken_ns: int | None = None
    _text: str = ""
    _scores: list[TokenScore] = field(default_factory=list)
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    _stops: StopScanner = field(init=False)

    def __post_init__(self) -> None:
        self._stops = StopScanner(self.job.generation.stop)

    @classmethod
    def of(cls, job: Job, context_tokens: int) -> "Lane":
        """A lane that has read nothing yet."""
        return cls(job, tokens_of(job.generation.prompt), context_tokens)

    @property
    def background(self) -> bool:
        """Whether nobody waits for it."""
        return self.job.generation.background

    @property
    def placed(self) -> bool:
        """Whether it has a sequence."""
        return self.sequence != NOWHERE

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.job.generation.prompt)

    @property
    def generated_tokens(self) -> int:
        """Number of tokens picked so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def generating(self) -> bool:
        """Whether all but the token picked last has been read."""
        return self.generated_tokens > 0 and len(self.tokens) - self.held == 1

    @property
    def view(self) -> LaneView:
        """What the scheduler needs to know of a running lane."""
        pending = 1 + len(self.guess) if self.generating else self._next_stop() - self.held
        return LaneView(self.job.number, pending, self.generating, self.background)

    @property
    def candidate(self) -> Candidate:
        """What the scheduler needs to know of a waiting lane."""
        return Candidate(self.job.number, self.tokens, self.background)

    @property
    def holding(self) -> Held:
        """What the lane's sequence holds now."""
        return Held(self.sequence, self.tokens[: self.held], 0)

    def next_tokens(self, count: int) -> Tokens:
        """The tokens to be read next."""
        pending = self.tokens[self.held : self.held + count]
        pending.extend(self.guess[: count - len(pending)])
        return pending

    def place(self, sequence: int, held: int) -> None:
        """Take a place in the cache whose first ``held`` tokens are there already."""
        self.sequence, self.held = sequence, held
        if not self.started_ns:
            self.started_ns = time.monotonic_ns()
            self.reused = held

    def take(self, token: int, score: TokenScore | None) -> float | None:
        """Append a picked token; returns the seconds since the one before, if there was one."""
        if self.expected is not None:
            self.record.note(1, int(token == self.expected))
            self.expected = None
        now, before = time.monotonic_ns(), self.last_token_ns
        self.first_token_ns = self.first_token_ns or now
        self.last_token_ns = now
        self.tokens.append(token)
        if score is not None:
            self._scores.append(score)
        return (now - before) / 1e9 if before else None

    def say(self, piece: bytes) -> bool:
        """Take the text of a token; True once a stop string is complete."""
        self._text += self._stops.feed(self._decoder.decode(piece))
        return self._stops.stopped

    def speak(self, *, pause_ns: int = 0) -> None:
        """Hand out the text that has come together, unless the last was less than ``pause_ns`` ago."""
        now = time.monotonic_ns()
        rested = self._spoken_ns is None or now - self._spoken_ns >= pause_ns
        if self._text and rested:
            delta = TextDelta(self._text, tuple(self._scores))
            self._text, self._scores, self._spoken_ns = "", [], now
            self.job.sink(delta)

    def room(self) -> int:
        """How many tokens may still be picked, by the job's own limit and the context window."""
        limit = self.job.generation.max_tokens
        in_context = self.context_tokens - len(self.tokens)
        return in_context if limit is None else min(limit - self.generated_tokens, in_context)

    def finish(self, reason: FinishReason) -> None:
        """Report the end."""
        if not self._stops.stopped:
            self._text += self._stops.feed(self._decoder.decode(b"", final=True)) + self._stops.flush()
        self.speak()
        generated = tuple(self.tokens[self.prompt_tokens :])
        self.job.sink(Finished(reason, self.usage(), generated, tuple(self._scores), self._stops.found))

    def fail(self, error: ServiceError) -> None:
        """Report that the job ends here for a fault."""
        self.speak()
        self.job.sink(Failed(error))

    def usage(self) -> Usage:
        """What the generation has cost up to now."""
        now = time.monotonic_ns()
        first = self.first_token_ns or now
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.reused,
            generated_tokens=self.generated_tokens,
            queued_ns=self.started_ns - self.job.submitted_ns,
            prefill_ns=first - self.started_ns,
            decode_ns=now - first,
        )

    def _next_stop(self) -> int:
        borders = self.borders if self.stops_at_borders else ()
        return next((border for border in borders if border > self.held), len(self.tokens))
