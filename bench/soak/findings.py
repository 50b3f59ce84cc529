"""What the run has seen."""

import collections
from dataclasses import dataclass, field

from bench.soak.plans import Answer, Plan, Told
from bench.soak.process import Process


@dataclass(frozen=True)
class Sample:
    """The server at a moment, in seconds since the start: its process, and what it says of its memory."""

    at_s: float
    process: Process
    in_use_bytes: float
    """What malloc has given out."""
    free_bytes: float
    """The holes in malloc's arenas, whose addresses the process keeps."""
    python_blocks: float


@dataclass
class Findings:
    """Grows while the run goes on."""

    outcomes: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    """By the kind of a request, and what became of it: answered, refused, or the manner of its hang-up."""
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    counted: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    """By route and outcome, as /metrics must have counted it."""
    open_ended: collections.Counter[str] = field(default_factory=collections.Counter)
    """By route: requests of which the client cannot know how the server counted them, if it did at all."""
    events: collections.Counter[str] = field(default_factory=collections.Counter)
    """Whatever else happened: models unloaded, made and deleted, reloads, looks."""
    first_token_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    longest_silence_s: float = 0.0
    """Between two events of the page."""
    samples: list[Sample] = field(default_factory=list)
    most: collections.Counter[str] = field(default_factory=collections.Counter)
    """The highest value of each of the engines' figures."""

    def fail(self, error: str) -> None:
        """Note an error."""
        self.errors[error[:300]] += 1

    def note(self, plan: Plan, answer: Answer, told: Told) -> None:
        """Note one request, and what its client knows of how the server counts it."""
        for fault in told.faults:
            self.fail(f"{plan.kind}: {fault}")
        if not answer.complete or told.faults:
            self.open_ended[plan.route] += 1
        else:
            self.counted[plan.route, plan.expected.outcome or told.outcome] += 1
            self.prompt_tokens += told.prompt_tokens
            self.generated_tokens += told.generated_tokens
        self.outcomes[plan.kind, _became(plan, answer, told)] += 1

    def broke(self, plan: Plan, error: Exception) -> None:
        """Note a request whose connection broke."""
        self.fail(f"{plan.kind}: {type(error).__name__}: {error}")
        self.open_ended[plan.route] += 1
        self.outcomes[plan.kind, "failed"] += 1


def _became(plan: Plan, answer: Answer, told: Told) -> str:
    if told.faults:
        return "failed"
    if not answer.complete:
        return plan.manner
    return "answered" if answer.status < 400 else "refused"  # noqa: PLR2004
