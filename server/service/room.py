"""Who has to leave a device, so that another model finds room there: pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Idle:
    """A loaded model that nobody uses. ``stays`` says that it is meant to stay loaded for ever.

    ``last_used_s`` is of any clock; ``freed_bytes`` is what its device gains when it goes.
    """

    weights: str
    freed_bytes: int
    last_used_s: float
    stays: bool


def who_must_go(missing_bytes: int, idle: Sequence[Idle]) -> tuple[str, ...]:
    """The models to unload for ``missing_bytes``, those first that were used longest ago.

    Those that are meant to stay go last. Nobody goes in vain: where all of them together do not free
    enough, none has to, and whoever turns out not to be needed for the sum stays.
    """
    ordered = sorted(idle, key=lambda model: (model.stays, model.last_used_s))
    if sum(model.freed_bytes for model in ordered) < missing_bytes:
        return ()
    leaving: list[Idle] = []
    for model in ordered:
        if _freed_bytes(leaving) < missing_bytes:
            leaving.append(model)
    for model in reversed(tuple(leaving)):
        others = [other for other in leaving if other is not model]
        if _freed_bytes(others) >= missing_bytes:
            leaving = others
    return tuple(model.weights for model in leaving)


def _freed_bytes(models: Sequence[Idle]) -> int:
    return sum(model.freed_bytes for model in models)
