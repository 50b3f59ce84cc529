"""What is known of a request under way, and what is told of it at its end. No text of a prompt is in here."""

import datetime
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from server.domain.errors import ServiceError
from server.domain.generation import Usage


class Ending(StrEnum):
    """How a request ended."""

    OK = "ok"
    LENGTH = "length"
    """Answered, up to the limit on its length."""
    CANCELLED = "cancelled"
    """The client hung up."""
    STOPPED = "stopped"
    """The service stopped, or the model was unloaded."""
    INVALID = "invalid"
    TOO_LONG = "too_long"
    """The prompt does not fit the context window."""
    NOT_FOUND = "not_found"
    """No such model, or no such route."""
    NOT_SUPPORTED = "not_supported"
    REFUSED = "refused"
    """The client may not ask this, or not from there."""
    LIMITED = "limited"
    """The client has asked for too much at once."""
    QUEUE_FULL = "queue_full"
    MEMORY_SHORT = "memory_short"
    UNAVAILABLE = "unavailable"
    """Not now, with status 503 and no error of the service's own: a look at its health, or it is stopping."""
    LOAD_FAILED = "load_failed"
    ENGINE_FAILED = "engine_failed"
    INTERNAL = "internal"
    """A bug; the log has it."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request as it arrived. ``client`` is an address; None: nobody knows. ``arrived_ns`` is monotonic.

    ``path`` is as the client wrote it, its beginning if it is long, without what follows a question mark.
    """

    id: str = ""
    method: str = ""
    path: str = ""
    client: str | None = None
    arrived_at: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    arrived_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True, slots=True)
class ShortenedItem:
    """A tool result that the model read in fewer words. ``original`` is its name among the originals."""

    message: int
    how: str
    characters: int
    characters_sent: int
    original: str


@dataclass(frozen=True, slots=True)
class Work:
    """What the service did with a request. None: it does not apply, or it did not come to that.

    ``model`` is the name in the catalogue, ``strategy`` A, B, C or ``direct``, and ``planned`` what it was to
    be before the helper failed. Times are seconds: ``load_s`` until the model was there, ``queue_s`` in its
    queue, ``first_token_s`` from the request's arrival, ``token_gap_s`` on average between two tokens.
    """

    model: str | None = None
    stream: bool = False
    strategy: str | None = None
    planned: str | None = None
    reason: str | None = None
    fallback: str | None = None
    finish: str | None = None
    """Why an answer ended that ran to its end."""
    context_tokens: int | None = None
    tokens_received: int | None = None
    tokens_sent: int | None = None
    tokens_estimated: bool | None = None
    """True where nobody has counted these two: the model runs elsewhere."""
    cached_tokens: int | None = None
    read_tokens: int | None = None
    generated_tokens: int | None = None
    guessed_tokens: int | None = None
    accepted_tokens: int | None = None
    summaries: int = 0
    summaries_reused: int = 0
    summarised_messages: int = 0
    summarised_characters: int = 0
    dropped_messages: int = 0
    shortened: tuple[ShortenedItem, ...] = ()
    helper_s: float = 0.0
    load_s: float | None = None
    queue_s: float | None = None
    first_token_s: float | None = None
    token_gap_s: float | None = None


class Generating(Protocol):
    """A generation that was submitted at ``submitted_ns``, monotonic."""

    submitted_ns: int

    def usage(self) -> Usage:
        """What it has cost up to now, or up to its end."""


@dataclass(slots=True, eq=False)
class Account:
    """A request under way. Each floor writes down what it learns; whoever opened it closes it."""

    visit: Visit = field(default_factory=Visit)
    work: Work = field(default_factory=Work)
    generating: Generating | None = None
    error: ServiceError | None = None
    """What the client was or will be told."""

    def work_so_far(self) -> Work:
        """``work`` with what the generation has come to."""
        if self.generating is None:
            return self.work
        usage = self.generating.usage()
        begun_s = (self.generating.submitted_ns - self.visit.arrived_ns) / 1e9
        return replace(
            self.work,
            cached_tokens=usage.cached_tokens,
            read_tokens=usage.read_tokens,
            generated_tokens=usage.generated_tokens,
            guessed_tokens=usage.guessed_tokens,
            accepted_tokens=usage.accepted_tokens,
            queue_s=usage.queued_ns / 1e9,
            first_token_s=begun_s + (usage.queued_ns + usage.prefill_ns) / 1e9
            if usage.generated_tokens
            else None,
            token_gap_s=usage.decode_ns / 1e9 / (usage.generated_tokens - 1)
            if usage.generated_tokens > 1
            else None,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A request that has ended. ``route`` is the template of its path, None where nothing has that path;
    ``status`` None: the client was gone before it was sent; ``error`` is what the client was told."""

    visit: Visit
    work: Work
    route: str | None
    status: int | None
    ending: Ending
    error: str | None
    total_s: float
