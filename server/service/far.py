"""Models that several devices share, put together. Nothing of this is loaded where each has one device."""

from collections.abc import Callable, Mapping
from pathlib import Path

from server.service.crashes import Crashes
from server.service.devices import Devices
from server.service.faults import Faults
from server.service.remoteloss import RemoteLoss
from server.service.remotes import Lost, Remotes
from server.service.splitting import SplitPlacements


class Far:
    """What a fleet needs for them. ``folder`` is where notes outlive the process; None: nowhere."""

    def __init__(self, folder: Path | None, crashes: Crashes) -> None:
        self._crashes = crashes
        self.remotes = Remotes(folder)

    @property
    def lost(self) -> Mapping[str, Lost]:
        """By model, what ended the service, as far as it has not been loaded again since."""
        return self.remotes.lost

    def placements(self, devices: Devices) -> SplitPlacements:
        """The way to a place for any model."""
        return SplitPlacements(devices, self.remotes)

    def loss(
        self, faults: Faults, beats: Callable[[], Mapping[str, float]], answering: Callable[[], int]
    ) -> RemoteLoss:
        """Who looks whether servers are lost; see there."""
        return RemoteLoss(self.remotes, self._crashes, faults, beats=beats, answering=answering)
