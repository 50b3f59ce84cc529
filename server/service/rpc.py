"""Models that several devices share, put together. Nothing of this is loaded where each has one device."""

from collections.abc import Callable, Mapping
from pathlib import Path

from server.service.crashes import Crashes
from server.service.devices import Devices
from server.service.faults import Faults
from server.service.rpc_loss import RpcLoss
from server.service.rpc_servers import Lost, RpcServers
from server.service.splitting import SplitPlacements


class Rpc:
    """What a fleet needs for them. ``folder`` is where notes outlive the process; None: nowhere."""

    def __init__(self, folder: Path | None, crashes: Crashes) -> None:
        self._crashes = crashes
        self.servers = RpcServers(folder)

    @property
    def lost(self) -> Mapping[str, Lost]:
        """By model, what ended the service, as far as it has not been loaded again since."""
        return self.servers.lost

    def placements(self, devices: Devices) -> SplitPlacements:
        """The way to a place for any model."""
        return SplitPlacements(devices, self.servers)

    def loss(
        self, faults: Faults, beats: Callable[[], Mapping[str, float]], answering: Callable[[], int]
    ) -> RpcLoss:
        """Who looks whether servers are lost; see there."""
        return RpcLoss(self.servers, self._crashes, faults, beats=beats, answering=answering)
