"""What the requests came to, as Prometheus counts it: an observer of the ledger."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.domain.account import Record
from server.engine.figures import SECONDS

PREFIX = "llm_optimizer"
MOST_MODELS = 64
OTHER, NONE, UNMATCHED = "other", "none", "unmatched"


class Names:
    """Labels for models: the first MOST_MODELS names are themselves, all further ones are ``other``."""

    def __init__(self, most: int = MOST_MODELS) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, name: str | None) -> str:
        """The label for a model of the catalogue; None: no model is known of."""
        if name is None:
            return NONE
        if len(self._known) < self._most:
            self._known.add(name)
        return name if name in self._known else OTHER


class RequestMetrics(Collector):
    """Counters and histograms, in a registry of their own."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._inner = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Requests that ended, by how.", "route", "model", "strategy", "outcome"
        )
        self._duration = self._histogram(
            "request_duration_seconds", "From a request's arrival to its end.", "route", "model"
        )
        self._first_token = self._histogram(
            "time_to_first_token_seconds",
            "From a request's arrival to the first token of its answer.",
            *("model", "strategy"),
        )
        self._queue = self._histogram(
            "queue_seconds", "Time that a request waited in its model's queue.", "model"
        )
        self._load = self._histogram(
            "model_wait_seconds", "Time that a request waited until its model was loaded.", "model"
        )
        self._received = self._counter(
            "prompt_tokens_received", "Tokens of the prompts as clients sent them.", "model"
        )
        self._sent = self._counter(
            "prompt_tokens_sent", "Tokens of the prompts as the models read them.", "model"
        )
        self._fallbacks = self._counter(
            "fallbacks",
            "Chats that the helper was to shorten and did not, by the strategy planned.",
            "planned",
        )
        self._shortened = self._counter(
            "shortened_results", "Old tool results that were sent in fewer words, by how.", "how"
        )
        self._dropped = self._counter(
            "dropped_messages", "Messages that were left out because a chat did not fit."
        )

    def add(self, record: Record) -> None:
        """Count one request."""
        work, model = record.work, self._names.label(record.work.model)
        route, strategy = record.route or UNMATCHED, work.strategy or work.planned or NONE
        self._requests.labels(route, model, strategy, record.ending.value).inc()
        self._duration.labels(route, model).observe(record.total_s)
        if work.first_token_s is not None:
            self._first_token.labels(model, strategy).observe(work.first_token_s)
        if work.queue_s is not None:
            self._queue.labels(model).observe(work.queue_s)
        if work.load_s is not None:
            self._load.labels(model).observe(work.load_s)
        if work.tokens_received is not None:
            self._received.labels(model).inc(work.tokens_received)
        if work.tokens_sent is not None:
            self._sent.labels(model).inc(work.tokens_sent)
        if work.fallback is not None:
            self._fallbacks.labels(work.planned or NONE).inc()
        for item in work.shortened:
            self._shortened.labels(item.how.replace(" ", "_")).inc()
        self._dropped.inc(work.dropped_messages)

    def collect(self) -> Iterable[Metric]:
        """All of them. The times at which series began are left out: they would double what is stored."""
        for metric in self._inner.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=PREFIX, registry=self._inner)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, namespace=PREFIX, registry=self._inner, buckets=SECONDS)
