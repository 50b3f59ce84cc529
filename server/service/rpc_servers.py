"""The rpc servers that models are split over: what they have, who has them, and what became of that.

ggml ends the process when a server is lost, so a note lies on disk while one is in use.
"""

import contextlib
import datetime
import logging
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from server.config.devices import literal_address, refusal_of_public, split_endpoint
from server.domain.errors import ModelLoadFailed
from server.engine.rpc import RpcDevice, Unreachable, Wires, ask, resolve
from server.service.lasting import Owner, put_whole

logger = logging.getLogger("llm-optimizer")

FILE = "lost-rpc.json"
_NOTES = "split-*.json"


@dataclass(frozen=True, slots=True)
class Server:
    """An rpc server as the settings call it, where it is, and its devices."""

    device: str
    address: str
    port: int
    devices: tuple[RpcDevice, ...]

    @property
    def endpoint(self) -> str:
        """As ggml calls it."""
        return f"{self.address}:{self.port}"


class Taken(ModelLoadFailed):
    """Another model of this service is split over the rpc server ``device``."""

    def __init__(self, device: str, holder: str) -> None:
        super().__init__(
            f"{device} has a part of {holder}, and an rpc server holds one model of this service at a time; "
            "start another one there, on another port"
        )
        self.device = device


@dataclass(frozen=True, slots=True)
class Lost:
    """The process ended while ``model`` was split over ``devices``; ``reason`` says which of them is away."""

    model: str
    devices: tuple[str, ...]
    at: datetime.datetime
    reason: str

    def __str__(self) -> str:
        return (
            f"the service ended while {self.model} was split over {', '.join(self.devices)} "
            f"(noted on {self.at:%Y-%m-%d %H:%M} UTC): {self.reason}"
        )


@dataclass(frozen=True, slots=True)
class _Note:
    """Says that a process has split a model. ``reason``: what it saw of its own end, if anything."""

    model: str
    devices: tuple[str, ...]
    owner: Owner
    reason: str | None = None


@dataclass(slots=True, eq=False)
class Held:
    """Servers that a model is split over. No ``wires``: it is being loaded."""

    model: str
    servers: tuple[Server, ...]
    note: Path | None
    wires: dict[str, Wires] = field(default_factory=dict)

    @property
    def loading(self) -> bool:
        """Whether it is not there yet."""
        return not self.wires

    def broken(self) -> str | None:
        """Which server has gone, and how that is known."""
        for device, wires in self.wires.items():
            reason = wires.broken()
            if reason is not None:
                return f"{device} is lost: {reason}"
        return None


_NOTE = TypeAdapter(_Note)
_LOST = TypeAdapter(dict[str, Lost])


class RpcServers:
    """Who has which server. Nothing here raises for a faulty disk: then nothing is remembered, as without a
    ``folder``. Callable from any thread."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self.lost: Mapping[str, Lost] = {}
        """By model, what ended the service, as far as it has not been loaded again since."""

    def look(self, devices: Sequence[str], *, public: bool, model: str) -> tuple[Server, ...]:
        """What these rpc servers have; blocks for some seconds at most where one does not answer.

        Raises:
            Taken: another model has one of them.
            Unreachable: one is not there, or of no use.
            ModelLoadFailed: one is on a public address, and ``public`` is False.
        """
        for device in devices:
            self._refuse_taken(device, model)
        return tuple(_look(device, public=public) for device in devices)

    def held(self) -> tuple[Held, ...]:
        """The models that are split over servers, or about to be."""
        with self._lock:
            return tuple(self._held.values())

    @contextlib.contextmanager
    def lending(self, model: str, servers: Sequence[Server]) -> Iterator[None]:
        """Load ``model`` over ``servers``, which it then has until :meth:`give_back`; not if that fails."""
        if not servers:
            yield
            return
        note = self._note(model, servers)
        held = Held(model, tuple(servers), note)
        with self._lock:
            self._held[model] = held
        try:
            yield
        except BaseException:
            self.give_back(model)
            raise
        held.wires = {server.device: Wires(server.address, server.port) for server in servers}
        self._forget(model)

    def give_back(self, model: str) -> None:
        """The model is gone; harmless where it had none."""
        with self._lock:
            held = self._held.pop(model, None)
        if held is None:
            return
        for wires in held.wires.values():
            wires.close()
        if held.note is not None:
            with _told_only(held.note):
                held.note.unlink(missing_ok=True)

    def last_words(self, held: Held, reason: str) -> None:
        """Write down why the process is about to end, for the next one."""
        if held.note is not None:
            devices = tuple(server.device for server in held.servers)
            with _told_only(held.note):
                note = _Note(held.model, devices, Owner.this(), reason)
                put_whole(held.note, _NOTE.dump_json(note))

    def look_back(self) -> tuple[Lost, ...]:
        """What processes left behind that are no more, with a look at which servers answer now."""
        folder = self._folder
        if folder is None:
            return ()
        new: dict[str, Lost] = {}
        with _told_only(folder):
            for path, note in _left_behind(folder):
                new[note.model] = Lost(note.model, note.devices, note.owner.at, _why(note))
                path.unlink(missing_ok=True)
            self.lost = {**_known(folder), **new}
            if new:
                put_whole(folder / FILE, _LOST.dump_json(dict(self.lost)))
        for lost in new.values():
            logger.warning("%s", lost)
        return tuple(new.values())

    def _refuse_taken(self, device: str, model: str) -> None:
        for held in self.held():
            if held.model != model and any(server.device == device for server in held.servers):
                raise Taken(device, held.model)

    def _note(self, model: str, servers: Sequence[Server]) -> Path | None:
        folder = self._folder
        if folder is None:
            return None
        note = _Note(model, tuple(server.device for server in servers), Owner.this())
        path = folder / f"split-{secrets.token_hex(8)}.json"
        with _told_only(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            put_whole(path, _NOTE.dump_json(note))
        return path

    def _forget(self, model: str) -> None:
        folder = self._folder
        if folder is None or model not in self.lost:
            return
        with _told_only(folder), self._lock:
            self.lost = {name: lost for name, lost in self.lost.items() if name != model}
            put_whole(folder / FILE, _LOST.dump_json(dict(self.lost)))


@contextlib.contextmanager
def _told_only(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.warning("%s cannot be used, lost rpc servers are not remembered: %s", path, error)


def _look(device: str, *, public: bool) -> Server:
    host, port = split_endpoint(device)
    addresses = resolve(device, host, port)
    refusals = [
        refusal_of_public(device, address) for text in addresses if (address := literal_address(text))
    ]
    refused = next((refusal for refusal in refusals if refusal is not None), None)
    if refused is not None and not public:
        raise ModelLoadFailed(refused)
    # ggml gets the very address that was looked at: a name may mean another one by then.
    devices = ask(device, addresses[0], port)
    if not devices:
        raise Unreachable(f"{device} has no devices; start ggml-rpc-server there with others (--device)")
    return Server(device, addresses[0], port, devices)


def _why(note: _Note) -> str:
    """What the process saw itself, and how the servers are now."""
    away = [text for text in map(_away, note.devices) if text is not None]
    now = "; ".join(away) or f"now {'it answers' if len(note.devices) == 1 else 'all of them answer'}"
    return now if note.reason is None else f"{note.reason}; {now}"


def _away(device: str) -> str | None:
    try:
        host, port = split_endpoint(device)
        ask(device, resolve(device, host, port)[0], port)
    except Unreachable as error:
        return str(error)
    return None


def remembered(folder: Path | None) -> tuple[Lost, ...]:
    """What ended the service and was not loaded again since, for whoever looks beside it."""
    if folder is None:
        return ()
    left = (Lost(note.model, note.devices, note.owner.at, _why(note)) for _, note in _left_behind(folder))
    return (*_known(folder).values(), *left)


def _known(folder: Path) -> dict[str, Lost]:
    try:
        return _LOST.validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        # Damaged, or written by another version: it is only of help, not needed.
        return {}


def _left_behind(folder: Path) -> list[tuple[Path, _Note]]:
    """The notes of processes that are no more."""
    found: list[tuple[Path, _Note]] = []
    for path in sorted(folder.glob(_NOTES)):
        with contextlib.suppress(OSError, ValueError):
            note = _NOTE.validate_json(path.read_bytes())
            if note.owner.is_no_more:
                found.append((path, note))
    return found
