"""Where a model goes that several devices share, of this machine and of others."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from server.catalogue import Installed
from server.domain.errors import ModelLoadFailed
from server.engine.spec import Share
from server.gpu.fit import Tuning, best, least
from server.gpu.plan import MemoryPlan, plan_beside_split
from server.gpu.split import Part, Place, refusal_of_split, shortage, split
from server.service.crashes import Crash
from server.service.devices import Devices
from server.service.placement import (
    MIB,
    NoRoom,
    Placement,
    Placements,
    Split,
    reduced_of,
    safer_of,
    shape_of,
    steps_of,
    wished_of,
)
from server.service.rpc_servers import RpcServers, Server, Taken


class SplitPlacements(Placements):
    """The same, and for models that several devices share."""

    def __init__(self, devices: Devices, rpc_servers: RpcServers) -> None:
        super().__init__(devices)
        self._rpc_servers = rpc_servers

    def place(self, installed: Installed, *, whole: bool = False, crash: Crash | None = None) -> Placement:
        """Where the model goes, and with what it has to do there; see :meth:`Placements.place`.

        Raises:
            NoRoom: one of the devices has too little free memory, or another model has its rpc server.
            ModelLoadFailed: a device is not there, or what may be given up does not make a crash unlikely.
        """
        if not installed.entry.settings.is_split:
            return super().place(installed, whole=whole, crash=crash)
        servers = self._servers(installed)
        places = tuple(self._places(installed, servers))
        wished = wished_of(installed)
        steps = steps_of(installed, wished)
        parts_of = partial(_parts, installed, places)
        safe = wished
        if crash is not None:
            safe = safer_of(
                installed, wished, steps, lambda tuning: _first(installed, parts_of(tuning)), crash
            )
        parts = parts_of(safe)
        if shortage(parts) is None:
            reduced = None if crash is None else reduced_of(installed, safe, str(crash))
            return replace(self._placement(installed, safe, parts, servers), reduced=reduced)
        steps = {} if whole else steps
        found = best(wished, steps, lambda tuning: shortage(parts_of(tuning)) is not None)
        if found is None:
            raise _no_room(installed, parts, parts_of(least(wished, steps)))
        reason = refusal_of_split(parts, installed.entry.section).partition(";")[0]
        placement = self._placement(installed, found, parts_of(found), servers)
        return replace(placement, reduced=reduced_of(installed, found, reason))

    def regrow(
        self,
        installed: Installed,
        before: Placement,
        context_tokens: int,
        crashes: Iterable[Crash] = (),
    ) -> Placement:
        """See :meth:`Placements.regrow`: nothing is known of what an rpc server has free while it works.

        Raises:
            NoRoom: what it takes more is not free.
            ModelLoadFailed: several devices share it, or about as much has ended the service before.
        """
        if before.split is not None:
            section = installed.entry.section
            raise ModelLoadFailed(
                f"the window of a model that several devices share does not grow; set {section}.context to "
                "the largest that is wanted"
            )
        return super().regrow(installed, before, context_tokens, crashes)

    def _servers(self, installed: Installed) -> tuple[Server, ...]:
        settings, model = installed.entry.settings, installed.entry.name.display
        try:
            return self._rpc_servers.look(settings.rpc_servers, public=settings.rpc_public, model=model)
        except Taken as error:
            # An idle model leaves for it, as it does where memory is short.
            raise NoRoom(str(error), 1, error.device) from error

    def _places(self, installed: Installed, servers: Iterable[Server]) -> Iterable[Place]:
        """In the order of the layers: the CPU, other machines, the cards here. So the last layer is on a card
        where there is one, and rows of logits need not go over the network.
        """
        settings = installed.entry.settings
        margin_bytes = settings.memory_margin_mib * MIB
        shares = dict(zip(settings.places, settings.device_shares, strict=False))
        here = [device for device in settings.places if device not in settings.rpc_servers]
        for device in here[: here[0] == "cpu"]:
            free_bytes = self.devices.free_bytes(device)
            yield Place(
                device, free_bytes, margin_bytes, on_gpu=False, share=shares.get(device), is_host=True
            )
        for server in servers:
            yield from _places_behind(server, margin_bytes, shares.get(server.device))
        for device in here[here[0] == "cpu" :]:
            free_bytes = self.devices.free_bytes(device)
            yield Place(device, free_bytes, margin_bytes, on_gpu=True, share=shares.get(device))

    def _placement(
        self, installed: Installed, tuning: Tuning, parts: tuple[Part, ...], servers: tuple[Server, ...]
    ) -> Placement:
        first = _first(installed, parts)
        device = self.devices.ggml_name(installed.entry.settings.device, installed.entry.section)
        host = first if device == "CPU" else plan_beside_split(installed.header, shape_of(installed, tuning))
        shares = tuple(self._share(installed, part, servers) for part in parts)
        return Placement(device, tuning, first, host.taken_bytes, split=Split(parts, shares, servers))

    def _share(self, installed: Installed, part: Part, servers: Iterable[Server]) -> Share:
        server = next((server for server in servers if server.device == part.device), None)
        if server is not None:
            return Share(server.endpoint, part.layers, part.place.number or 0)
        return Share(self.devices.ggml_name(part.device, installed.entry.section), part.layers)


def _places_behind(server: Server, margin_bytes: int, share: int | None) -> Iterable[Place]:
    """A server's devices; its share is theirs by what each has free."""
    all_bytes = sum(device.free_bytes for device in server.devices) or 1
    several = len(server.devices) > 1
    for number, device in enumerate(server.devices):
        part = None if share is None else share * device.free_bytes / all_bytes
        yield Place(
            server.device,
            device.free_bytes,
            margin_bytes,
            on_gpu=None,
            share=part,
            number=number if several else None,
        )


def _parts(installed: Installed, places: tuple[Place, ...], tuning: Tuning) -> tuple[Part, ...]:
    return split(installed.header, shape_of(installed, tuning), places)


def _first(installed: Installed, parts: Iterable[Part]) -> MemoryPlan:
    """The plan of the device that the settings name first."""
    return next(part.plan for part in parts if part.device == installed.entry.settings.device)


def _no_room(installed: Installed, parts: tuple[Part, ...], smallest: tuple[Part, ...]) -> NoRoom:
    text = f"model '{installed.entry.name.display}' {refusal_of_split(parts, installed.entry.section)}"
    worst = shortage(smallest) or smallest[0]
    return NoRoom(text, worst.missing_bytes, worst.device)
