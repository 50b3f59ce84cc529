"""A running generation: what it has read, what it has said, and when."""

import codecs
import time
from dataclasses import dataclass, field

from server.domain.errors import ServiceError
from server.domain.generation import EventSink, Failed, Finished, FinishReason, Generation, TextDelta, Usage
from server.engine.prefix import Held, Tokens, tokens_of
from server.engine.sampling import Sampler
from server.engine.scheduler import LaneView
from server.engine.stops import StopScanner


@dataclass(slots=True, eq=False)
class Job:
    """A generation on its way through the engine, with the way back to who asked for it."""

    number: int
    generation: Generation
    sink: EventSink
    cancelled: bool = False
    submitted_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(slots=True, eq=False)
class Lane:
    """A job that has a sequence in the KV cache.

    ``tokens`` is the prompt and all that was generated; the first ``held`` of them are in the
    cache. A lane is generating when only the token picked last is still to be read.
    """

    job: Job
    tokens: Tokens
    context_tokens: int
    sequence: int = -1
    held: int = 0
    reused: int = 0
    sampler: Sampler | None = None
    started_ns: int = 0
    first_token_ns: int = 0
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
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.job.generation.prompt)

    @property
    def generated_tokens(self) -> int:
        """Number of tokens picked so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def view(self) -> LaneView:
        """What the scheduler needs to know."""
        pending = len(self.tokens) - self.held
        return LaneView(self.job.number, pending, generating=pending == 1 and self.generated_tokens > 0)

    @property
    def holding(self) -> Held:
        """What the lane's sequence holds now."""
        return Held(self.sequence, self.tokens[: self.held], 0)

    def start(self, sequence: int, reused: int) -> None:
        """Take a place in the cache whose first ``reused`` tokens are there already."""
        self.sequence, self.held = sequence, reused
        if not self.started_ns:
            self.started_ns = time.monotonic_ns()
            self.reused = reused

    def take(self, token: int) -> None:
        """Append a picked token."""
        if not self.first_token_ns:
            self.first_token_ns = time.monotonic_ns()
        self.tokens.append(token)

    def say(self, piece: bytes) -> bool:
        """Hand out the text of a token; True once a stop string is complete."""
        self._emit(self._stops.feed(self._decoder.decode(piece)))
        return self._stops.stopped

    def limit_reached(self) -> bool:
        """Whether the job's own limit or the context window allows no further token."""
        limit = self.job.generation.max_tokens
        if limit is not None and self.generated_tokens >= limit:
            return True
        return len(self.tokens) >= self.context_tokens

    def finish(self, reason: FinishReason) -> None:
        """Report the end."""
        if not self._stops.stopped:
            self._emit(self._stops.feed(self._decoder.decode(b"", final=True)) + self._stops.flush())
        self.job.sink(Finished(reason, self.usage(), tuple(self.tokens[self.prompt_tokens :])))

    def fail(self, error: ServiceError) -> None:
        """Report that the job ends here for a fault."""
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

    def _emit(self, text: str) -> None:
        if text:
            self.job.sink(TextDelta(text))
