"""What the service, its models and its cards are like right now, for Prometheus; returns at once."""

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from server.engine.figures import Histogram
from server.engine.ownmemory import heap_now
from server.gpu.nvml import GpuReading
from server.service.berths import Resident
from server.service.devices import Seen, others_bytes_of, own_bytes_of
from server.service.elsewhere import Distant
from server.service.metrics import PREFIX, Names
from server.service.service import Service

Sample = tuple[Sequence[str], float | None]
"""The labels' values, and the value; None: nobody knows it, and there is no such series."""

_MODEL_GAUGES: tuple[tuple[str, Callable[[Resident], float], str], ...] = (
    ("model_context_tokens", lambda one: one.state.context_tokens, "Context window of a loaded model."),
    ("model_slots", lambda one: one.state.slots, "Answers that a loaded model can give at once."),
    (
        "model_reduced",
        lambda one: int(one.placement.reduced is not None),
        "1 where a model was loaded with less than the settings say.",
    ),
    (
        "model_broken",
        lambda one: int(one.state.fault is not None),
        "1 where a model's engine has broken down.",
    ),
    ("requests_running", lambda one: one.state.running, "Generations under way."),
)
"""Name, value of a loaded model, and what it is."""

_REMOTE_GAUGES: tuple[tuple[str, Callable[[Distant], float], str], ...] = (
    ("remote_running", lambda one: one.state.running, "Requests that another server works on for us."),
    ("remote_waiting", lambda one: one.state.queued, "Requests that wait here for another server."),
)
_REMOTE_COUNTERS: tuple[tuple[str, Callable[[Distant], float], str], ...] = (
    (
        "remote_tries_failed",
        lambda one: one.state.failures,
        "Tries that failed before the first token, or later.",
    ),
    (
        "remote_left_alone",
        lambda one: one.state.times_left_alone,
        "Times that a server was left alone for a while.",
    ),
)
"""Name, value of a model that another server runs, and what it is."""

_ENGINE_COUNTERS = (
    (
        "engine_prompt_tokens",
        "prompt_tokens",
        "Prompt tokens that came to a model, the helper's own work included.",
    ),
    ("cached_tokens", "cached_tokens", "Prompt tokens that a model need not read again."),
    (
        "restored_tokens",
        "restored_tokens",
        "Those of the cached tokens that came back from host memory or disk.",
    ),
    ("prefilled_tokens", "read_tokens", "Prompt tokens that went through a model."),
    ("generated_tokens", "generated_tokens", "Tokens that a model generated."),
    ("drafted_tokens", "guessed_tokens", "Tokens that were guessed."),
    ("accepted_tokens", "accepted_tokens", "Guessed tokens that were right."),
    ("steps", "steps", "Batches that were computed."),
    ("cache_evictions", "evictions", "Conversations that had to leave the KV cache."),
    ("answers_sent_back", "sent_back", "Times that an answer had to wait because the KV cache was full."),
)
"""Name, field of the engine's figures, and what it is."""


class Gauges(Collector):
    """Looks at everything each time somebody asks."""

    def __init__(self, service: Service, names: Names) -> None:
        self._service = service
        self._names = names

    def collect(self) -> Iterable[Metric]:
        """A look at everything."""
        yield from self._service_now()
        yield from _memory_now()
        yield from self._models_now()
        yield from self._elsewhere()
        yield from self._engines()
        yield from self._helper()
        yield from self._devices()
        residents = self._service.fleet.residents()
        used = {device for one in residents for device in one.installed.entry.settings.places_here}
        yield from cards(self._service.fleet.seen(), used, os.getpid())

    def _service_now(self) -> Iterable[Metric]:
        yield _gauge(
            "requests_in_progress",
            "Requests of all kinds that have not ended.",
            (),
            [((), len(self._service.ledger.under_way()))],
        )

    def _models_now(self) -> Iterable[Metric]:
        residents = [(self._names.label(_name(one)), one) for one in self._service.fleet.residents()]
        yield _gauge(
            "model_loaded",
            "1 for each loaded model.",
            ("model", "device"),
            [((name, one.installed.entry.settings.device), 1) for name, one in residents],
        )
        for metric, value_of, text in _MODEL_GAUGES:
            yield _by_model(metric, text, {name: value_of(one) for name, one in residents})
        yield _by_model(
            "requests_waiting",
            "Generations in a model's queue, or waiting for it to be loaded.",
            {**{name: one.state.queued for name, one in residents}, **self._waiting_to_be_loaded()},
        )
        yield _gauge(
            "prefix_cache_bytes",
            "What is kept of conversations, by where it lies.",
            ("model", "tier"),
            [((name, tier), held) for name, one in residents for tier, held in _tiers(one).items()],
        )

    def _waiting_to_be_loaded(self) -> Mapping[str, float]:
        arriving = self._service.fleet.arriving()
        return {self._names.label(one.installed.entry.name.display): one.waiting for one in arriving}

    def _elsewhere(self) -> Iterable[Metric]:
        distant = [
            (self._names.label(one.installed.entry.name.display), one)
            for one in self._service.fleet.elsewhere.distant()
        ]
        yield _gauge(
            "remote_up",
            "1 where the server that runs a model answered the last time.",
            ("model", "host"),
            [((name, one.spec.host), int(one.state.is_up)) for name, one in distant],
        )
        for metric, value_of, text in _REMOTE_GAUGES:
            yield _by_model(metric, text, {name: value_of(one) for name, one in distant})
        for metric, value_of, text in _REMOTE_COUNTERS:
            yield _counter(metric, text, ("model",), [((name,), value_of(one)) for name, one in distant])

    def _engines(self) -> Iterable[Metric]:
        totals = {
            self._names.label(name): found for name, found in self._service.fleet.tally.totals().items()
        }
        for name, part, text in _ENGINE_COUNTERS:
            yield _counter(
                name, text, ("model",), [((model,), getattr(found, part)) for model, found in totals.items()]
            )
        yield _histogram(
            "inter_token_seconds",
            "Time between two tokens of an answer.",
            {model: found.gap_s for model, found in totals.items()},
        )

    def _helper(self) -> Iterable[Metric]:
        helped = self._service.helped
        yield _counter(
            "summaries",
            "Summaries by the helper: made for a request, reused from an earlier turn, ahead of need.",
            ("how",),
            [(("made",), helped.made), (("reused",), helped.reused), (("ahead",), helped.ahead)],
        )
        yield _counter(
            "helper_seconds",
            "Time that the helper worked, for requests that waited and ahead of need.",
            ("work",),
            [(("request",), helped.request_s), (("ahead",), helped.ahead_s)],
        )

    def _devices(self) -> Iterable[Metric]:
        guard = self._service.guard
        seen = guard.watched()
        yield _gauge(
            "device_free_bytes",
            "Free memory of a device that a model is on.",
            ("device",),
            [((device,), watched.free_bytes) for device, watched in seen.items()],
        )
        yield _gauge(
            "device_margin_bytes",
            "Memory that is to stay free on a device.",
            ("device",),
            [((device,), watched.margin_bytes) for device, watched in seen.items()],
        )
        yield _gauge(
            "device_margin_level",
            "How far giving way has come: 0 calm, 1 new work waits, 2 reading ahead stops, "
            "3 conversations leave, 4 idle models leave.",
            ("device",),
            [((device,), int(guard.level_of(device))) for device in seen],
        )


_CARD_GAUGES: tuple[tuple[str, str, Callable[[GpuReading, int | None], float | None]], ...] = (
    ("memory_total_bytes", "Memory of a card.", lambda card, _own: card.memory_total_bytes),
    ("memory_used_bytes", "Memory that is taken, by whomever.", lambda card, _own: card.memory_used_bytes),
    ("memory_free_bytes", "Memory that is free.", lambda card, _own: card.memory_free_bytes),
    ("memory_own_bytes", "Memory that this service has taken.", lambda _card, own: own),
    ("memory_others_bytes", "Memory that others have taken.", others_bytes_of),
    (
        "utilisation_ratio",
        "Part of the time in which a card computed.",
        lambda card, _own: _times(card.utilisation_percent, 0.01),
    ),
    ("temperature_celsius", "Temperature of a card.", lambda card, _own: card.temperature_c),
    ("power_watts", "Power that a card takes.", lambda card, _own: card.power_w),
    ("power_limit_watts", "Power that a card may take.", lambda card, _own: card.power_limit_w),
    ("clock_hertz", "Clock of a card's processors.", lambda card, _own: _times(card.clock_mhz, 1e6)),
    ("fault", "1 where a card cannot be used.", lambda card, _own: int(card.fault is not None)),
)
"""Name, what it is, and its value by a reading and what this process has of the card; None: unknown."""


def cards(seen: Seen, used: Collection[str], own_pid: int) -> Iterable[Metric]:
    """What the driver said of the cards. ``used`` names the devices that models are on."""
    looked_at = [
        (card, own_bytes_of(card, own_pid, uses_it=device in used))
        for card, device in zip(seen.cards, seen.names, strict=True)
    ]
    yield _known_cards(seen)
    for name, text, value_of in _CARD_GAUGES:
        values = [((str(card.index),), value_of(card, own)) for card, own in looked_at]
        yield _gauge(f"gpu_{name}", text, ("gpu",), values)


def _known_cards(seen: Seen) -> Metric:
    family = InfoMetricFamily(f"{PREFIX}_gpu", "The cards.", labels=("gpu",))
    for card, device in zip(seen.cards, seen.names, strict=True):
        known = {"device": device, "name": card.name, "uuid": card.uuid, "pci_bus_id": card.pci_bus_id}
        family.add_metric((str(card.index),), {key: value or "" for key, value in known.items()})
    return family


def _tiers(resident: Resident) -> Mapping[str, float]:
    """Bytes in the KV cache, of answers and of finished conversations, and in the tiers beyond."""
    state, plan = resident.state, resident.placement.plan
    of_a_token = plan.kv_bytes / max(resident.placement.context_tokens, 1)
    return {
        "device": (state.cells_in_use + state.kept_tokens) * of_a_token,
        "host": resident.tiers.ram_bytes,
        "disk": resident.tiers.disk_bytes,
    }


def _name(resident: Resident) -> str:
    return resident.installed.entry.name.display


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _memory_now() -> Iterable[Metric]:
    """What tells a leak from holes: where it leaks, what is in use grows as well."""
    heap = heap_now()
    held = {"in_use": heap.in_use_bytes, "free": heap.free_bytes} if heap else {}
    yield _gauge(
        "heap_bytes",
        "What malloc has given out to the service, and what lies free in its arenas.",
        ("state",),
        [((state,), value) for state, value in held.items()],
    )
    blocks = sys.getallocatedblocks()
    yield _gauge("python_blocks", "Python's own blocks of memory in use.", (), [((), blocks)])


def _gauge(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    return _filled(GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels), samples)


def _counter(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    return _filled(CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels), samples)


def _by_model(name: str, text: str, values: Mapping[str, float]) -> Metric:
    return _gauge(name, text, ("model",), [((model,), value) for model, value in values.items()])


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[Sample]) -> Metric:
    for labels, value in samples:
        if value is not None:
            family.add_metric(labels, value)
    return family


def _histogram(name: str, text: str, found: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=("model",))
    for model, histogram in found.items():
        family.add_metric((model,), _buckets(histogram), histogram.total_s)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus counts all up to a bound."""
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
