"""What every part works with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.fidelity.generated import generated
from bench.fidelity.methods import Scale
from bench.fidelity.sessions import Session, session_of
from bench.prompts import Prompter

LONG_SESSION_TOKENS = 45_000


@dataclass(frozen=True)
class Stage:
    """The models, the recorded sessions, and how long it may take.

    ``model`` answers and gives the tokens; ``helper`` is what the naive pipeline would summarise with.
    """

    model: Path
    helper: Path
    prompter: Prompter
    scale: Scale
    recorded: tuple[Session, ...]
    quick: bool
    say: Callable[[str], None]

    @cached_property
    def generated(self) -> tuple[Session, ...]:
        """Sessions that grow to 45K tokens, each from another seed."""
        seeds = range(1, 3 if self.quick else 6)
        return tuple(
            session_of(f"generated-{seed}", generated(seed, LONG_SESSION_TOKENS, self.scale.count))
            for seed in seeds
        )

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All of them."""
        return (*self.recorded, *self.generated)
