"""Rpc servers that ended the service when they were lost."""

from collections.abc import Iterator, Sequence

from server.doctor.check import Check, warning
from server.service.rpc_servers import Lost


def judge_lost(lost: Sequence[Lost]) -> Iterator[Check]:
    """A line for each model that has not been loaded over them again since."""
    for one in lost:
        yield warning(
            "rpc",
            str(one),
            f"start ggml-rpc-server on that machine: the next request for {one.model} loads it again, and "
            "all other models answer meanwhile (docs/rpc.md)",
            subject=one.model,
        )
