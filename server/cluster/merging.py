"""One answer made of those of all replicas: pure."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from server.cluster.reach import ORIGINALS
from server.cluster.wire import Whole

_FAULTY = 400
_UNAVAILABLE = 503


def together(path: str, wholes: Sequence[Whole]) -> Whole:
    """The answer of the cluster to a question that was put to all replicas, at least one.

    Where nobody answers it (a wrong key, say) it is the worst of their answers.
    """
    if path == "/health":
        return _health(wholes)
    if path == "/health/ready":
        return _ready(wholes)
    good = [whole for whole in wholes if whole.status < _FAULTY]
    if not good:
        return worst(wholes)
    if path.startswith(ORIGINALS):
        return good[0]
    merge = _MERGES[path]
    return merge(good)


def worst(wholes: Iterable[Whole]) -> Whole:
    """The answer with the highest status, the first of those; where all went well, the first of all."""
    return max(wholes, key=lambda whole: whole.status)


def failed(wholes: Iterable[Whole]) -> list[Whole]:
    """The answers that are errors."""
    return [whole for whole in wholes if whole.status >= _FAULTY]


def _health(wholes: Sequence[Whole]) -> Whole:
    """As ill as the worst replica: whoever watches wants to know of each."""
    found = worst(wholes)
    status = "ok" if found.status < _FAULTY else "error"
    return _json(found.status, {"status": status, "replicas": _by_replica(wholes)})


def _ready(wholes: Sequence[Whole]) -> Whole:
    """Ready as soon as anyone is: whoever sends requests wants to know whether to."""
    ready = any(whole.status < _FAULTY for whole in wholes)
    told = {"ready": ready, "replicas": _by_replica(wholes)}
    return _json(200 if ready else _UNAVAILABLE, told)


def _by_replica(wholes: Sequence[Whole]) -> dict[str, Any]:
    """The worst first."""
    ordered = sorted(wholes, key=lambda whole: (-whole.status, whole.replica))
    return {whole.replica: _read(whole) for whole in ordered}


def _read(whole: Whole) -> Any:
    try:
        return json.loads(whole.body)
    except ValueError:
        return {"error": f"status {whole.status}, and its answer cannot be read"}


def _each(wholes: Sequence[Whole]) -> Whole:
    return _json(200, {"replicas": _by_replica(wholes)})


def _loaded(wholes: Sequence[Whole]) -> Whole:
    """A model that is loaded twice is there twice: each takes its machine's memory."""
    models = [
        {**model, "replica": whole.replica}
        for whole in sorted(wholes, key=lambda whole: whole.replica)
        for model in _read(whole).get("models", [])
    ]
    return _json(200, {"models": models})


def _union(list_key: str, name_key: str) -> Callable[[Sequence[Whole]], Whole]:
    """Each name once: what one machine has, the cluster has."""

    def merge(wholes: Sequence[Whole]) -> Whole:
        read, found = [_read(whole) for whole in wholes], dict[str, Any]()
        for told in read:
            for item in told.get(list_key, []):
                found.setdefault(item[name_key], item)
        return _json(200, {**read[0], list_key: list(found.values())})

    return merge


def _metrics(wholes: Sequence[Whole]) -> Whole:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged({whole.replica: whole.body.decode() for whole in wholes}))
    headers = ((b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode()),)
    return Whole("", 200, headers, generate_latest(registry))


class _Merged(Collector):
    """The metrics of several processes, each sample with the label ``replica``."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known when they are read."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every family once, with the samples of all."""
        families: dict[tuple[str, str], Metric] = {}
        for replica, text in sorted(self._texts.items()):
            for family in text_string_to_metric_families(text):
                known = families.setdefault(
                    (family.name, family.type), Metric(family.name, family.documentation, family.type)
                )
                known.samples += [_labelled(sample, replica) for sample in family.samples]
        return families.values()


def _labelled(sample: Sample, replica: str) -> Sample:
    return sample._replace(labels={"replica": replica, **sample.labels})


def _json(status: int, told: Mapping[str, Any]) -> Whole:
    body = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Whole("", status, ((b"content-type", b"application/json"),), body)


_MERGES: Mapping[str, Callable[[Sequence[Whole]], Whole]] = {
    "/health/gpu": _each,
    "/metrics": _metrics,
    "/api/ps": _loaded,
    "/api/tags": _union("models", "name"),
    "/v1/models": _union("data", "id"),
}
