"""Whom a request is for: one replica, all of them, or all of them with one answer made of theirs."""

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Reach(Enum):
    """Whom a request goes to, and what is done when a replica is lost with it."""

    ONE = "one"
    """The replica that its beginning points to; another one, if that is lost before its answer begins."""
    EVERY = "every"
    """All replicas: it changes which models there are, and each machine has its own. Never sent twice."""
    TOGETHER = "together"
    """All replicas, and their answers become one."""
    NOWHERE = "nowhere"
    """It cannot be done through a cluster."""


MANAGEMENT = ("/api/pull", "/api/create", "/api/copy", "/api/delete")

UPLOADS = "/api/blobs/"

TOGETHER = (
    *("/health", "/health/ready", "/health/gpu", "/metrics"),
    *("/api/ps", "/api/tags", "/v1/models"),
)

ORIGINALS = "/api/router/original/"

_LOADING = ("/api/generate", "/api/chat")
_LOOKING = ("GET", "HEAD")


def reach_of(method: str, path: str, body: Mapping[str, Any]) -> Reach:
    """Whom it is for. ``body`` is empty where it is none, or cannot be read."""
    if path.startswith(UPLOADS):
        return Reach.NOWHERE
    if path in MANAGEMENT:
        return Reach.EVERY
    if method in _LOOKING and (path in TOGETHER or path.startswith(ORIGINALS)):
        return Reach.TOGETHER
    if path in _LOADING and body.get("model") and not (body.get("prompt") or body.get("messages")):
        return Reach.EVERY
    return Reach.ONE
