"""Runs the service: binds the addresses, loads the models, says when it is ready, stops cleanly."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server import __version__
from server.api.access import Access
from server.api.connections import connections, room_for_connections
from server.app import build_app, build_service
from server.catalogue import Entry
from server.config import ConfigError, Settings, read_keys
from server.domain.errors import ServiceError
from server.service.service import Service
from server.sockets import is_loopback, listening

logger = logging.getLogger("llm-optimizer")

SHUTDOWN_S = 5


class CannotServe(Exception):
    """The service cannot start; the text says why and what to do."""


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until a signal comes. ``announce`` shows a text once the models are loaded.

    Raises:
        CannotServe: an address is taken, or no model at all can be loaded.
    """
    access = _access(settings)
    sockets = bind(settings.addresses)
    for warning in warnings_of(settings.addresses, access):
        logger.warning("%s", warning)
    service = build_service(settings)
    startup = _Startup(service, lambda: announce(greeting(service, sockets)))
    app = build_app(service, settings, access, startup.running)
    config = uvicorn.Config(
        app,
        http=connections(room_for_connections()),
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        server_header=False,
    )
    server = _Server(config, service.close)
    startup.give_up = server.stop
    server.run(sockets=sockets)
    if startup.failure is not None:
        raise CannotServe(startup.failure)


def _access(settings: Settings) -> Access:
    try:
        return Access(settings.limits, read_keys(settings.keys_file))
    except ConfigError as error:
        raise CannotServe(str(error)) from error


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
        if resident is not None:
            state = f"context {resident.state.context_tokens} tokens, {resident.state.slots} slots"
        lines.append(f"  {entry.section:<9}  {entry.name.display} on {entry.settings.device}, {state}")
    name = service.catalogue.configured[0].name.display
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return "\n".join((*lines, "Try it:", f"  curl {urls[0]}/api/chat -d '{body}'"))


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Startup:
    """Loads the models while the service already answers: who asks for one waits for it."""

    def __init__(self, service: Service, ready: Callable[[], None]) -> None:
        self._service = service
        self._ready = ready
        self.give_up: Callable[[], None] = lambda: None
        self.failure: str | None = None

    @contextlib.asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """The application's lifespan."""
        loading = asyncio.create_task(self._load_all())
        self._service.guard.start()
        yield
        loading.cancel()
        await self._service.close()

    async def _load_all(self) -> None:
        wanted = [entry for entry in self._service.catalogue.configured if entry.settings.preload]
        reasons = await asyncio.gather(*(self._load(entry) for entry in wanted))
        faults = [reason for reason in reasons if reason is not None]
        if faults and len(faults) == len(reasons):
            self.failure = "no model can be loaded:\n  " + "\n  ".join(faults)
            self.give_up()
            return
        for fault in faults:
            logger.error("%s; the other model serves, and the next request for this one tries again", fault)
        self._ready()

    async def _load(self, entry: Entry) -> str | None:
        logger.info("loading %s on %s", entry.name.display, entry.settings.device)
        try:
            await self._service.fleet.load(entry)
        except ServiceError as error:
            return f"{entry.section} {entry.name.display}: {error}"
        return None


class _Server(uvicorn.Server):
    """uvicorn, but a signal ends the answers under way, and is not raised again afterwards."""

    def __init__(self, config: uvicorn.Config, end_answers: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._end_answers = end_answers
        self._ending: asyncio.Future[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        logger.info("%s: stopping", signal.Signals(sig).name)
        self.stop()

    def stop(self) -> None:
        """Stop accepting, and end what is under way."""
        self.should_exit = True
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end_answers())


def set_up_logging(level: str) -> None:
    """Plain lines with the time, as a journal shows them."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
    )
    # uvicorn's own lines repeat what is announced already.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
