"""Whether what was seen is as it should be: the memory, files and threads, the counters, the log."""

import collections
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from bench.soak.findings import Sample

MIB = 2**20

REQUESTS = "llm_optimizer_requests_total"
GENERATED = "llm_optimizer_generated_tokens_total"
IN_PROGRESS = "llm_optimizer_requests_in_progress"
IN_USE = ("llm_optimizer_heap_bytes", (("state", "in_use"),))
FREE = ("llm_optimizer_heap_bytes", (("state", "free"),))
PYTHON_BLOCKS = ("llm_optimizer_python_blocks", ())
REFUSED_RELOAD = "reload: all stays as it was"

Series = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by the name of a sample, and its labels."""

Counted = collections.Counter[tuple[str, str]]


def taken_mib(sample: Sample) -> float:
    """Address space; by itself it is only shown: see bench.soak.process."""
    return sample.process.taken_bytes / MIB


@dataclass(frozen=True)
class Steady:
    """A figure that must be flat, and by how much it may grow all the same."""

    what: str
    figure: Callable[[Sample], float]
    most_growth: float
    digits: int = 0


STEADY = (
    Steady("memory in use, MiB", lambda sample: sample.in_use_bytes / MIB, 16, digits=1),
    Steady("blocks of Python, thousands", lambda sample: sample.python_blocks / 1000, 50, digits=1),
    Steady(
        "address space without malloc's holes, MiB",
        lambda sample: taken_mib(sample) - sample.free_bytes / MIB,
        32,
        digits=1,
    ),
    Steady("resident memory, MiB", lambda sample: sample.process.resident_bytes / MIB, 32, digits=1),
    Steady("open files", lambda sample: sample.process.descriptors, 8),
    Steady("threads", lambda sample: sample.process.threads, 8),
)
"""Limits are sizes, not per cent: what leaks does not grow with the model, and five per cent of a server with
large caches would hide it. Connections of clients come and go; what leaks a file for each request, or a
thread for each load, is far beyond eight of them."""


@dataclass(frozen=True)
class Trend:
    """How a figure developed after the warm-up."""

    first: float
    last: float
    slope_per_hour: float

    def grew(self, most: float) -> bool:
        """Whether it grew by more than is allowed."""
        return self.last - self.first > most


def trend(samples: Sequence[Sample], warm_up_s: float, figure: Callable[[Sample], float]) -> Trend | None:
    """The medians of the first and the last fifth after the warm-up; None for too few samples."""
    later = [sample for sample in samples if sample.at_s >= warm_up_s]
    fifth = len(later) // 5
    if fifth == 0:
        return None
    values = [figure(sample) for sample in later]
    slope = statistics.linear_regression([sample.at_s for sample in later], values).slope
    return Trend(statistics.median(values[:fifth]), statistics.median(values[-fifth:]), slope * 3600)


def series_of(text: str) -> Series:
    """What a look at /metrics shows. Raises ValueError for a text that is none of Prometheus'."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shrunk(before: Series, after: Series) -> list[str]:
    """Counters that went down or away, which they never may while the process lives."""
    return [
        f"{name}{dict(labels)}: {value:g} became {after.get((name, labels))}"
        for (name, labels), value in before.items()
        if name.endswith(("_total", "_count", "_bucket")) and after.get((name, labels), -1) < value
    ]


def requests_of(series: Series) -> Counted:
    """Requests by route and outcome."""
    counted: Counted = collections.Counter()
    for (name, labels), value in series.items():
        if name == REQUESTS:
            known = dict(labels)
            counted[known["route"], known["outcome"]] += round(value)
    return counted


def total_of(series: Series, name: str) -> float:
    """All series of one name together."""
    return sum(value for (found, _), value in series.items() if found == name)


def disagreements(
    server: Counted, clients: Counted, open_ended: Mapping[str, int], *, alone: bool = True
) -> list[str]:
    """Where the server's counts cannot be what the clients saw.

    Each request that a client saw the end of is counted exactly so. Each of ``open_ended``, whose clients
    hung up, is counted once at most, in whatever way. ``alone`` is False where others may have asked as well.
    """
    missing = [
        f"{route} {outcome}: {server[route, outcome]} counted, {seen} seen"
        for (route, outcome), seen in clients.items()
        if server[route, outcome] < seen
    ]
    if not alone:
        return missing
    more: collections.Counter[str] = collections.Counter()
    for (route, outcome), counted in server.items():
        more[route] += max(counted - clients[route, outcome], 0)
    return missing + [
        f"{route}: {count} counted beyond those that were seen, and {open_ended.get(route, 0)} hung up"
        for route, count in more.items()
        if count > open_ended.get(route, 0)
    ]


def own_faults(server: Counted) -> list[str]:
    """What the server itself counts as its own faults."""
    bad = {"internal", "engine_failed", "load_failed", "memory_short", "unavailable", "stopped"}
    return [
        f"{count} counted as {outcome} at {route}"
        for (route, outcome), count in server.items()
        if outcome in bad and count
    ]


def log_faults(lines: Sequence[str], wrong_reloads: int) -> list[str]:
    """Lines that tell of a fault of the service's own. Each wrong file must have been refused with one."""
    refused = [line for line in lines if REFUSED_RELOAD in line]
    faults = [f"in the log: {line}" for line in lines if is_fault(line) and REFUSED_RELOAD not in line]
    if len(refused) != wrong_reloads:
        faults.append(f"in the log: {len(refused)} reloads refused, {wrong_reloads} wrong files given")
    return faults


def is_fault(line: str) -> bool:
    """Whether a line of the server's log tells of a fault of its own."""
    return bool(re.search(r"Traceback|\bERROR\b|\bCRITICAL\b", line))


def course(values: Sequence[float]) -> str:
    """A figure at about twenty moments, which tells a plateau from a leak."""
    every = max(len(values) // 20, 1)
    return " ".join(f"{value:.0f}" for value in values[::every])
