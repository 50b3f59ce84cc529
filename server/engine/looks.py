"""How an engine is, seen from outside."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineState:
    """A look at an engine: ``slots`` can run at once, ``running`` do, ``queued`` wait.

    ``cells_in_use`` are those of running answers; ``kept_tokens`` lie in the cache for the next turn.
    """

    slots: int
    running: int
    queued: int
    context_tokens: int
    cells_in_use: int
    kept_sequences: int
    kept_tokens: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class CacheTiers:
    """States outside of the KV cache: their bytes, their number, and how many were given up so far."""

    ram_bytes: int
    disk_bytes: int
    states: int
    evictions: int
