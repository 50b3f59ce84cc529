"""Ray Serve's request router with the policy of :mod:`server.cluster.affinity`.

Ray's own rules stay in force: a replica that is full or does not answer its probe is passed over for the next
one of the order, all being full means waiting and asking again, and one that is gone falls out.
"""

from collections import defaultdict
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from server.cluster.affinity import SPILL_REQUESTS, Candidate, Has, Holders, order
from server.cluster.beginnings import Beginnings
from server.cluster.wire import Asked


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray is Any to mypy
    """Sends a conversation to the replica that holds its beginning. One for each ingress."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._holders = Holders()
        self._spill = SPILL_REQUESTS
        self._under_way: defaultdict[str, set[str]] = defaultdict(set)

    def initialize_state(self, spill_requests: int = SPILL_REQUESTS) -> None:
        """Ray Serve calls it with ``request_router_kwargs``."""
        self._spill = spill_requests

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All replicas, each a rank of its own."""
        begins = _beginnings(pending_request)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        named = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        candidates = [self._candidate(name, replica, begins) for name, replica in named.items()]
        return [[named[name]] for name in order(begins, candidates, self._holders, self._spill)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """The replica has taken it, and reads it now."""
        self._holders.learn(_beginnings(pending_request), replica_id.unique_id)
        self._under_way[replica_id.unique_id].add(pending_request.metadata.internal_request_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """However it ended."""
        self._under_way[replica_id.unique_id].discard(internal_request_id)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Nothing that it held is anywhere now."""
        super().on_replica_actor_died(replica_id)
        self._forget_others()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Other replicas, or other facts of the same ones."""
        super().update_replicas(replicas)
        self._forget_others()
        for replica in replicas:
            roots = replica.routing_stats.get("roots", ())
            self._holders.hear(map(bytes.fromhex, roots), replica.replica_id.unique_id)

    def _forget_others(self) -> None:
        names = {replica_id.unique_id for replica_id in self._replica_id_set}
        self._holders.keep_only(names)
        for name in [name for name in self._under_way if name not in names]:
            del self._under_way[name]

    def _candidate(self, name: str, replica: RunningReplica, begins: Beginnings) -> Candidate:
        """Other ingresses send requests, too: what the replica last said of itself counts if it is more."""
        told = self.replica_queue_len_cache.get(replica.replica_id) or 0
        load = max(told, len(self._under_way[name]))
        return Candidate(name, load, _has(replica.routing_stats, begins.model))


def _beginnings(pending_request: PendingRequest | None) -> Beginnings:
    args = pending_request.args if pending_request is not None else ()
    return args[0].begins if args and isinstance(args[0], Asked) else Beginnings()


def _has(facts: dict[str, Any], model: str) -> Has:
    if not model or not facts:
        return Has.ON_DISK
    if model in facts.get("loaded", ()):
        return Has.LOADED
    return Has.ON_DISK if model in facts.get("on_disk", ()) else Has.NOT
