"""Runs the service: binds the addresses, loads the models, says when it is ready, stops cleanly."""

import contextlib
import errno
import faulthandler
import logging
import os
import socket
from collections.abc import Callable, Sequence

import uvicorn
from fastapi import FastAPI

from server import __version__
from server.api.access import Access
from server.api.connections import IDLE_S, connections, room_for_connections
from server.app import build_app, build_service
from server.config import ConfigError, Settings, read_keys, split_address
from server.config.options import toml_text
from server.lifecycle import SHUTDOWN_S, Server, Startup, lifespan
from server.reloading import Preparation, Reload, log_level
from server.service.service import Service
from server.sockets import is_loopback, listening
from server.supervision import Supervision
from server.systemd import Notifier, NotOurs, inherited_sockets, watchdog_s

logger = logging.getLogger("llm-optimizer")


class CannotServe(Exception):
    """The service cannot start; the text says why and what to do."""


def serve(settings: Settings, announce: Callable[[str], None], read_again: Callable[[], Settings]) -> None:
    """Serve until a signal comes. ``announce`` shows a text once the models are loaded; ``read_again`` reads
    the settings for a reload, raising ConfigError.

    Raises:
        CannotServe: an address is taken, or no model at all can be loaded.
    """
    # Where llama.cpp, CUDA or systemd's watchdog end the process, each thread's place goes to the log.
    faulthandler.enable()
    notifier = Notifier(os.environ)
    access = _access(settings)
    handed_over = _handed_over()
    sockets = handed_over or bind(settings.addresses)
    bound = _on_addresses_of(handed_over, settings) if handed_over else settings
    for warning in warnings_of(bound.addresses, access):
        logger.warning("%s", warning)
    service = _built(settings)
    supervision = Supervision(service, notifier, watchdog_s(os.environ, os.getpid()))

    def ready() -> None:
        announce(greeting(service, sockets))
        supervision.ready()

    def give_up() -> None:
        server.end()

    startup = Startup(service, ready, give_up)
    app = build_app(service, bound, access, lifespan(supervision.running, startup.running))
    reload = Reload(
        service.current, read_again, [service.catalogue.read_again, log_level, keys_and_limits(access)]
    )
    server = Server(
        _uvicorn(app),
        service,
        notifier,
        lambda: supervision.around_reload(reload.run),
        keeps_address=bool(handed_over),
    )
    server.run(sockets=sockets)
    if startup.failure is not None:
        raise CannotServe(startup.failure)


def _built(settings: Settings) -> Service:
    try:
        return build_service(settings)
    except ConfigError as error:
        raise CannotServe(str(error)) from error


def keys_and_limits(access: Access) -> Preparation:
    """Part of a reload: keys are read again, whatever the settings say of them."""

    def prepare(settings: Settings) -> Callable[[], None]:
        keys = read_keys(settings.keys_file)
        return lambda: access.replace(settings.limits, keys)

    return prepare


def _access(settings: Settings) -> Access:
    try:
        return Access(settings.limits, read_keys(settings.keys_file))
    except ConfigError as error:
        raise CannotServe(str(error)) from error


def _handed_over() -> list[socket.socket]:
    """The sockets of a systemd socket unit, if there is one."""
    try:
        return inherited_sockets(os.environ, os.getpid())
    except NotOurs as error:
        raise CannotServe(f"the socket unit does not fit: {error}") from error


def _on_addresses_of(sockets: Sequence[socket.socket], settings: Settings) -> Settings:
    """The settings where a socket unit says what to listen on; a ``listen`` that says else is told of."""
    given = tuple(_address(listener) for listener in sockets)
    if {split_address(address) for address in given} != set(settings.addresses):
        logger.warning(
            "the socket unit listens on %s, and listen = %s has no effect: let both say the same, or disable "
            "llm-optimizer.socket",
            toml_text(given),
            toml_text(settings.listen),
        )
    return settings.model_copy(update={"listen": given})


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def warnings_of(addresses: Sequence[tuple[str, int]], access: Access) -> list[str]:
    """What whoever starts the service should know of who can reach it."""
    reached = ", ".join(f"{host}:{port}" for host, port in addresses if not is_loopback(host))
    if not reached or access.has_keys:
        return []
    return [
        f"{reached} is open to the network and no keys are set: whoever reaches it may use the models, and "
        "only this machine may change them. Set keys_file, or listen on 127.0.0.1"
    ]


def bind(addresses: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """Listening sockets for all ``addresses``, or none at all.

    Raises:
        CannotServe: naming the address and the reason.
    """
    with contextlib.ExitStack() as bound:
        sockets = [bound.enter_context(_bind_one(host, port)) for host, port in addresses]
        bound.pop_all()
    return sockets


def _bind_one(host: str, port: int) -> socket.socket:
    try:
        return listening(host, port)
    except OSError as error:
        raise CannotServe(f"cannot listen on {host}:{port}: {_in_words(error)}") from error


def _in_words(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program uses this port (an Ollama daemon?); stop it, or give another --port"
        case errno.EACCES:
            return "ports below 1024 need root; choose a higher --port"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; see --host and the setting listen"
        case _:
            return error.strerror or str(error)


def greeting(service: Service, sockets: Sequence[socket.socket]) -> str:
    """What a person wants to know when the service is ready."""
    urls = [_url(listener) for listener in sockets]
    loaded = {resident.installed.entry.weights: resident for resident in service.fleet.residents()}
    lines = [f"llm-optimizer {__version__} is ready", *(f"  listening  {url}" for url in urls)]
    for entry in service.catalogue.configured:
        resident = loaded.get(entry.weights)
        state = "NOT LOADED, see the log above" if entry.settings.preload else "loaded by its first request"
        if entry.settings.is_elsewhere:
            state = f"context {entry.settings.context} tokens, {entry.settings.slots} at once"
        if resident is not None:
            state = f"context {resident.state.context_tokens} tokens, {resident.state.slots} slots"
        lines.append(f"  {entry.section:<9}  {entry.name.display} on {entry.settings.where}, {state}")
    name = service.catalogue.configured[0].name.display
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return "\n".join((*lines, "Try it:", f"  curl {urls[0]}/api/chat -d '{body}'"))


def _url(listener: socket.socket) -> str:
    return f"http://{_address(listener)}"


def _uvicorn(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=connections(room_for_connections()),
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        server_header=False,
    )
