"""The addresses to listen on: free, or who answers there."""

import contextlib
import errno
import http.client
import json
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any

from server.doctor.check import Check, fault, ok
from server.sockets import listening

_ANSWER_TIMEOUT_S = 5.0
_LARGEST_ANSWER_BYTES = 2**20
_REALM = 'realm="llm-optimizer"'
_WANTS_KEY = object()
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # whom to ask, not where to listen


class Tenant(StrEnum):
    """Who has an address."""

    NOBODY = auto()
    THIS_SERVICE = auto()
    OLLAMA = auto()
    ANOTHER = auto()


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A model that a running service has loaded. ``role`` None: a further one."""

    name: str
    role: str | None
    device: str
    context_tokens: int | None


@dataclass(frozen=True, slots=True)
class Running:
    """An llm-optimizer that answers. ``models`` None: it tells them to those only who have a key."""

    models: tuple[RunningModel, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Port:
    """An address as it was found. ``error`` is the system's number for why it cannot be listened on."""

    host: str
    port: int
    tenant: Tenant
    running: Running | None = None
    error: OSError | None = None


def look_at_port(host: str, port: int) -> Port:
    """Try to listen there; where somebody does already, ask who it is."""
    error = _listening_fails(host, port)
    if error is None:
        return Port(host, port, Tenant.NOBODY)
    if error.errno != errno.EADDRINUSE:
        return Port(host, port, Tenant.NOBODY, error=error)
    running = running_at(host, port)
    if running is not None:
        return Port(host, port, Tenant.THIS_SERVICE, running)
    return Port(host, port, Tenant.OLLAMA if _is_ollama(host, port) else Tenant.ANOTHER)


def running_at(host: str, port: int) -> Running | None:
    """The llm-optimizer that answers at an address; None if none does."""
    health = _get(host, port, "/health/gpu")
    if health is _WANTS_KEY:
        return Running(None)
    models = health.get("models") if isinstance(health, dict) else None
    return None if not isinstance(models, list) else Running(tuple(map(_model, models)))


def judge_port(port: Port) -> Check:
    """Whether the service can listen there, or does."""
    subject = f"[{port.host}]:{port.port}" if ":" in port.host else f"{port.host}:{port.port}"
    if port.error is not None:
        return fault("port", *_in_words(port.error), subject=subject)
    match port.tenant:
        case Tenant.NOBODY:
            return ok("port", "free" if port.port else "a free one will be taken", subject=subject)
        case Tenant.THIS_SERVICE:
            return ok("port", "an llm-optimizer runs here", subject=subject)
        case Tenant.OLLAMA:
            return fault(
                "port",
                "an Ollama runs here",
                "stop it (systemctl disable --now ollama), or let listen name another port",
                subject=subject,
            )
        case Tenant.ANOTHER:
            return fault(
                "port",
                "another program listens here, neither an llm-optimizer nor an Ollama",
                f"see which one (ss -ltnp 'sport = :{port.port}'), stop it, or let listen name another port",
                subject=subject,
            )


def _listening_fails(host: str, port: int) -> OSError | None:
    try:
        listening(host, port).close()
    except OSError as error:
        return error
    return None


def _in_words(error: OSError) -> tuple[str, str]:
    match error.errno:
        case errno.EACCES:
            return "ports below 1024 need root", "let listen name a higher port"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address", "let listen name one that it has: ip address"
        case _:
            return error.strerror or str(error), "see listen"


def _is_ollama(host: str, port: int) -> bool:
    answer = _get(host, port, "/api/version")
    return isinstance(answer, dict) and "version" in answer


def _get(host: str, port: int, path: str) -> Any:
    """The JSON that is answered there, or that this very service wants a key; None for anything else."""
    connection = http.client.HTTPConnection(_ANY_ADDRESS.get(host, host), port, timeout=_ANSWER_TIMEOUT_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection.request("GET", path)
        answer = connection.getresponse()
        if _REALM in answer.headers.get("WWW-Authenticate", ""):
            return _WANTS_KEY
        return json.loads(answer.read(_LARGEST_ANSWER_BYTES))
    return None


def _model(told: dict[str, Any]) -> RunningModel:
    return RunningModel(
        str(told.get("name")), told.get("role"), str(told.get("device")), told.get("context_tokens")
    )
