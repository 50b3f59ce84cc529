"""What may end the process, and what came of it before: by model, device, settings and versions."""

import contextlib
import hashlib
from collections.abc import Iterator
from enum import StrEnum

from server.catalogue import Installed
from server.gpu.fit import EFFECTS
from server.service.crashes import Crash, Crashes
from server.service.devices import Devices
from server.service.placement import Placement


class Risk(StrEnum):
    """Where ggml takes memory."""

    LOAD = "loaded"
    GROWTH = "grew the context window of"


class Risks:
    """Crashes of loading a model, and of giving it a larger window. Callable from any thread."""

    def __init__(self, crashes: Crashes, devices: Devices) -> None:
        self._crashes = crashes
        self._devices = devices

    def last(self, installed: Installed, risk: Risk) -> Crash | None:
        """What came of it before and still counts; nothing where file, device, a setting, binding or driver
        are others."""
        return self._crashes.last(self._key(installed, risk))

    @contextlib.contextmanager
    def taking(self, installed: Installed, risk: Risk, placement: Placement) -> Iterator[None]:
        """Do it. What goes well and is no longer limited by a crash makes it forgotten."""
        key, settings = self._key(installed, risk), installed.entry.settings
        limited = self._crashes.last(key) is not None
        what = f"{risk} {installed.entry.name.display} on {settings.where}"
        with self._crashes.risking(key, what, placement.plan.total_bytes):
            yield
        if not limited:
            self._crashes.forget(key)

    def _key(self, installed: Installed, risk: Risk) -> str:
        settings = installed.entry.settings
        # The path may change, and what the service does beside has no part in it.
        told = settings.model_dump_json(exclude={"path", "name", "keep_alive", "preload", "policy", "queue"})
        parts = (
            risk.name,
            installed.file.fingerprint,
            installed.window_tokens,
            told,
            *sorted(settings.set_by_user & EFFECTS.keys()),
            *self._devices.versions,
        )
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
