"""Lets requests through to a device, or makes them wait while its memory is short."""

import asyncio

from server.domain.errors import DeviceShort

PATIENCE_S = 30.0
"""After that a client is told, so that it can go elsewhere."""


class Gate:
    """Open for every device that is not shut. Belongs to the event loop."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._reasons: dict[str, str] = {}
        self._opened: dict[str, asyncio.Event] = {}
        self._hopeless: set[str] = set()

    def shut(self, device: str, reason: str, *, hopeless: bool = False) -> None:
        """Let nobody through to ``device``; ``reason`` is for those who wait too long. ``hopeless``: nobody
        waits at all."""
        self._reasons[device] = reason
        if hopeless:
            self._hopeless.add(device)
        self._opened.setdefault(device, asyncio.Event())

    def open(self, device: str) -> None:
        """Let everybody through who waits, and all who come."""
        self._reasons.pop(device, None)
        self._hopeless.discard(device)
        opened = self._opened.pop(device, None)
        if opened is not None:
            opened.set()

    async def passed(self, device: str, *, waits: bool) -> None:
        """Return once ``device`` is open.

        Raises:
            DeviceShort: it stays shut, or is shut and the caller does not wait.
        """
        opened = self._opened.get(device)
        if opened is None:
            return
        try:
            async with asyncio.timeout(self.patience_s if waits and device not in self._hopeless else 0):
                await opened.wait()
        except TimeoutError:
            raise DeviceShort(self._reasons.get(device, device)) from None
