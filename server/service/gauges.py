"""What the service, its models and its cards are like right now, for Prometheus. Reading it may block."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from server.gpu.nvml import GpuReading
from server.service.fleet import Resident
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
        yield from self._models_now()
        yield from self._engines()
        yield from self._helper()
        yield from self._devices()
        yield from cards(self._service.fleet.gpus(), os.getpid())

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
        seen = guard.sight.devices
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


def own_bytes(card: GpuReading, own_pid: int) -> int | None:
    """What this process has of a card; None: the driver does not tell."""
    if card.processes is None:
        return None
    return next((process.memory_bytes for process in card.processes if process.pid == own_pid), 0)


def others_bytes(card: GpuReading, own_pid: int) -> int | None:
    """What all others have of a card, the driver included; None: the driver does not tell."""
    own = own_bytes(card, own_pid)
    return None if own is None or card.memory_used_bytes is None else max(card.memory_used_bytes - own, 0)


_CARD_GAUGES: tuple[tuple[str, str, Callable[[GpuReading, int], float | None]], ...] = (
    ("memory_total_bytes", "Memory of a card.", lambda card, _: card.memory_total_bytes),
    ("memory_used_bytes", "Memory that is taken, by whomever.", lambda card, _: card.memory_used_bytes),
    ("memory_free_bytes", "Memory that is free.", lambda card, _: card.memory_free_bytes),
    ("memory_own_bytes", "Memory that this service has taken.", own_bytes),
    ("memory_others_bytes", "Memory that others have taken.", others_bytes),
    (
        "utilisation_ratio",
        "Part of the time in which a card computed.",
        lambda card, _: _times(card.utilisation_percent, 0.01),
    ),
    ("temperature_celsius", "Temperature of a card.", lambda card, _: card.temperature_c),
    ("power_watts", "Power that a card takes.", lambda card, _: card.power_w),
    ("power_limit_watts", "Power that a card may take.", lambda card, _: card.power_limit_w),
    ("clock_hertz", "Clock of a card's processors.", lambda card, _: _times(card.clock_mhz, 1e6)),
    ("fault", "1 where a card cannot be used.", lambda card, _: int(card.fault is not None)),
)
"""Name, what it is, and the value from a reading and our process id. A value that nobody knows is None."""


def cards(readings: Sequence[GpuReading], own_pid: int) -> Iterable[Metric]:
    """What the driver says of the cards."""
    known = InfoMetricFamily(f"{PREFIX}_gpu", "The cards.", labels=("gpu",))
    for card in readings:
        known.add_metric(
            (str(card.index),),
            {"name": card.name or "", "uuid": card.uuid or "", "pci_bus_id": card.pci_bus_id or ""},
        )
    yield known
    for name, text, value_of in _CARD_GAUGES:
        yield _gauge(
            f"gpu_{name}",
            text,
            ("gpu",),
            [((str(card.index),), value_of(card, own_pid)) for card in readings],
        )


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
