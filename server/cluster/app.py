"""The application that Ray Serve runs: ``import_path: server.cluster.app:build``."""

import contextlib
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from server.cluster.ingress import Ingress
from server.cluster.installed import NotInstalled
from server.cluster.machine import Machine, settings_of
from server.cluster.terms import Terms, terms_of
from server.cluster.wire import Asked, NobodyThere, ReplicaLost, Said, Whole
from server.domain.errors import ServiceError
from server.logs import set_up_logging

try:
    from ray import serve
    from ray.exceptions import RayActorError, RayTaskError
    from ray.serve.config import RequestRouterConfig
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
    from ray.serve.handle import DeploymentHandle
except ModuleNotFoundError as error:
    raise NotInstalled from error

FACTS_EVERY_S = 2.0
"""How often ingresses hear of models and conversations."""

_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
"""Where this is 1, Ray puts HAProxy in front, and every request comes from that."""

_ROUTERS: Mapping[str, str] = {
    "prefix": "server.cluster.router:PrefixRouter",
    "round_robin": "ray.serve.experimental.round_robin_router:RoundRobinRouter",
    "least_loaded": "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter",
}


class RayReplicas:
    """All replicas behind a handle."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._handle = handle.options(stream=True, method_name="answer")

    async def ask(self, asked: Asked) -> AsyncGenerator[Said, None]:
        """See :class:`server.cluster.ingress.Replicas`."""
        said = self._handle.remote(asked)
        ended = False
        try:
            async for one in said:
                yield one
            ended = True
        except RayActorError as error:
            ended = True
            raise ReplicaLost(str(error)) from error
        except (DeploymentUnavailableError, BackPressureError) as error:
            ended = True
            raise NobodyThere(str(error)) from error
        except RayTaskError as error:
            ended = True
            raise ServiceError("internal error; the machine's log has the details") from error
        finally:
            if not ended:
                said.cancel()

    async def ask_all(self, asked: Asked, limit_s: float | None) -> list[Whole]:
        """See :class:`server.cluster.ingress.Replicas`."""
        try:
            answers = self._handle.broadcast("whole", asked)
            wholes: list[Whole] = await answers.results_async(timeout_s=limit_s)
        except (RayActorError, TimeoutError) as error:
            raise ReplicaLost(str(error)) from error
        except DeploymentUnavailableError as error:
            raise NobodyThere(str(error)) from error
        return wholes


class ServiceReplica:
    """One machine's service. Its process is the machine's only one with models."""

    async def __init__(self, terms: Terms) -> None:  # type: ignore[misc]  # Ray awaits it
        name = serve.get_replica_context().replica_id.unique_id
        settings = settings_of(terms.config, terms.listen)
        set_up_logging(settings.log_level, settings.log_format)
        self._machine = Machine(name, settings, lambda: settings_of(terms.config, terms.listen))
        await self._machine.start()

    async def answer(self, asked: Asked) -> AsyncGenerator[Said, None]:
        """One request's answer; cancelled where the client hangs up."""
        async with contextlib.aclosing(self._machine.answer(asked)) as said:
            async for one in said:
                yield one

    async def whole(self, asked: Asked) -> Whole:
        """The same in one piece."""
        return await self._machine.whole(asked)

    async def check_health(self) -> None:
        """Ray ends a replica for which this fails three times, and starts another."""
        self._machine.check()

    async def record_routing_stats(self) -> dict[str, Any]:
        """Ray hands these facts to all routers."""
        return await self._machine.facts()

    async def reconfigure(self, _user_config: Any) -> None:
        """A changed ``user_config`` in the file: settings and keys are read again, nothing is restarted.

        A coroutine, like all others here: the service belongs to one event loop.
        """
        self._machine.reload()

    async def __del__(self) -> None:
        """Ray calls it when answers under way have ended, or have taken ``graceful_shutdown_timeout_s``."""
        await self._machine.stop(0)


@serve.ingress()
class IngressReplica:
    """What Ray's proxies send requests to."""

    def __init__(self, service: "DeploymentHandle[Any]", terms: Terms) -> None:
        set_up_logging("warning", "text")
        knows_clients = os.environ.get(_HAPROXY, "0") != "1"
        self._app = Ingress(RayReplicas(service), terms, knows_clients=knows_clients)

    def __serve_build_asgi_app__(self) -> Ingress:
        """Ray calls it after the constructor."""
        return self._app


SERVICE: Any = serve.deployment(
    name="Service",
    num_replicas=1,
    max_ongoing_requests=64,
    graceful_shutdown_timeout_s=330,
    health_check_period_s=10,
    health_check_timeout_s=30,
    # The cards are not Ray's to hand out: the service plans them itself, all of its machine's.
    ray_actor_options={"num_cpus": 0},
)(ServiceReplica)
INGRESS: Any = serve.deployment(
    name="Ingress",
    # One is replaced while the other takes requests, and its successor is there before it goes.
    num_replicas=2,
    max_surge_percent=50,
    max_ongoing_requests=4096,
    graceful_shutdown_timeout_s=330,
    ray_actor_options={"num_cpus": 0},
)(IngressReplica)
"""What they are unless the file says otherwise."""


def build(args: dict[str, Any]) -> serve.Application:
    """The application; see :class:`server.cluster.terms.Terms` for ``args``.

    Raises:
        ConfigError: an argument is wrong.
    """
    return application(terms_of(args))


def application(terms: Terms, replicas: int | None = None, ingresses: int | None = None) -> serve.Application:
    """The same with other numbers of replicas than the deployments' own."""
    service = SERVICE.options(
        request_router_config=_routing(terms), num_replicas=replicas or SERVICE.num_replicas
    )
    ingress = INGRESS.options(num_replicas=ingresses or INGRESS.num_replicas)
    return ingress.bind(service.bind(terms), terms)


def _routing(terms: Terms) -> RequestRouterConfig:
    own = {"spill_requests": terms.spill_requests} if terms.policy == "prefix" else {}
    return RequestRouterConfig(
        request_router_class=_ROUTERS[terms.policy],
        request_router_kwargs=own,
        request_routing_stats_period_s=FACTS_EVERY_S,
    )
