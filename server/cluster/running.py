"""A cluster on this machine alone, to try it out: Ray is started for it and ended with it."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType

# Nothing is told to anybody outside, and nothing is drawn into a terminal.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Whoever reaches a port of Ray's needs the token that Ray keeps in the user's folder.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# Ray's word, on every system, for: all within this machine. Else its own ports are open to the network.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import ray
from ray import serve

from server.cluster.app import application
from server.cluster.terms import Terms
from server.config import split_address

OBJECT_STORE_BYTES = 200 * 2**20
APPLICATION = "llm-optimizer"


def run(terms: Terms, replicas: int, ingresses: int, temp_dir: Path | None) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP replaces all replicas, one after the other."""
    host, port = split_address(terms.listen)
    ray.init(
        num_cpus=os.cpu_count(),
        resources={"machine": replicas},
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=None if temp_dir is None else str(temp_dir.absolute()),
        _node_ip_address="127.0.0.1",
    )
    # Only now: Ray has signal handlers of its own, which end the process where it stands.
    wishes = _Wishes()
    try:
        serve.start(http_options={"host": host, "port": port})
        _deploy(terms, replicas, ingresses)
        print(f"listening  http://{terms.listen}", flush=True)  # noqa: T201
        while wishes.next() == signal.SIGHUP:
            _deploy(terms, replicas, ingresses)
            print("replaced", flush=True)  # noqa: T201
    finally:
        serve.shutdown()
        ray.shutdown()


def _deploy(terms: Terms, replicas: int, ingresses: int) -> None:
    serve.run(application(terms, replicas, ingresses), name=APPLICATION, route_prefix="/")


class _Wishes:
    """The signals that came, one after the other."""

    def __init__(self) -> None:
        self._came = threading.Semaphore(0)
        self._numbers: list[int] = []
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def next(self) -> int:
        """The next one; waits for it."""
        while not self._came.acquire(timeout=1):
            pass
        return self._numbers.pop(0)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._numbers.append(number)
        self._came.release()
