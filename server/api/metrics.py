"""``/metrics`` for Prometheus."""

import platform
from collections.abc import Iterable
from importlib.metadata import version

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from server import __version__
from server.service.gauges import Gauges
from server.service.metrics import PREFIX, Names, RequestMetrics
from server.service.service import Service


def metrics_router(service: Service) -> APIRouter:
    """The route, over a registry of its own."""
    router, registry = APIRouter(), _registry(service)

    def metrics(request: Request) -> Response:
        """A plain function: it runs in a thread, and answers go on."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=media_type)

    router.add_api_route("/metrics", metrics, methods=["GET"])
    return router


def _registry(service: Service) -> CollectorRegistry:
    registry, names = CollectorRegistry(), Names()
    requests = RequestMetrics(names)
    service.ledger.observe(requests.add)
    registry.register(_Build())
    registry.register(requests)
    registry.register(Gauges(service, names))
    ProcessCollector(registry=registry)
    return registry


class _Build(Collector):
    """What runs here."""

    def collect(self) -> Iterable[Metric]:
        """It never changes."""
        info = InfoMetricFamily(f"{PREFIX}_build", "Versions of the service and of what it is made of.")
        info.add_metric(
            (),
            {
                "version": __version__,
                "llama_cpp_python": version("llama-cpp-python"),
                "python": platform.python_version(),
            },
        )
        yield info
