"""What is remembered of loading and growing a model, and until when."""

import contextlib
import datetime
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.catalogue import Catalogue, Installed, Role
from server.config import load_settings
from server.domain.errors import ModelLoadFailed
from server.service.crashes import Crashes
from server.service.devices import Devices
from server.service.loaded import Loaded
from server.service.loading import DiskCache, Loader
from server.service.placement import Placement, Placements
from server.service.risks import Risk, Risks
from tests.running import embedded_config


@pytest.fixture
def installed(embedded_model: Path, tmp_path: Path) -> Installed:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(embedded_model))
    catalogue = Catalogue(load_settings(config, {}, {}))
    return catalogue.inspect(catalogue.of(Role.GENERATOR))


def devices(binding: str = "0.3.36", driver: str | None = "580.95") -> Devices:
    library = SimpleNamespace(version=binding, devices=list)
    nvml = SimpleNamespace(driver_version=driver, devices=tuple)
    return Devices(library, nvml)  # type: ignore[arg-type]


class Machine:
    """A loader of which only what it remembers counts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.crashes = folder, Crashes(folder)
        self.risks = Risks(self.crashes, devices())
        self.placements = Placements(devices())

    def crash(self, installed: Installed, risk: Risk, placement: Placement) -> None:
        """Be no more in the middle of it."""
        with contextlib.suppress(KeyboardInterrupt), self.risks.taking(installed, risk, placement):
            self.stop()

    def stop(self) -> None:
        """As if this process were another one, and had ended just now."""
        (marker,) = self.folder.glob("risk-*.json")
        left = {**json.loads(marker.read_text()), "started": "1"}
        (self.folder / "risk-left.json").write_text(json.dumps(left))
        assert len(self.crashes.look_back()) == 1
        raise KeyboardInterrupt


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "crashes")


def test_another_setting_file_binding_or_driver_is_another_thing(
    machine: Machine, installed: Installed
) -> None:
    machine.crash(installed, Risk.LOAD, machine.placements.place(installed))
    found = machine.risks.last(installed, Risk.LOAD)
    assert found is not None
    assert found.what == "loaded smollm2:135m on cpu"
    assert machine.risks.last(installed, Risk.GROWTH) is None

    def last(risks: Risks = machine.risks, file: str | None = None, **settings: Any) -> object:
        entry = replace(installed.entry, settings=installed.entry.settings.model_copy(update=settings))
        known = replace(installed.file, fingerprint=file or installed.file.fingerprint)
        return risks.last(Installed(entry, known), Risk.LOAD)

    assert last(path=Path("moved.gguf"), keep_alive="1m", policy="direct") == found
    assert last(context=4096) is last(kv_type="q8_0") is last(memory_margin_mib=1) is None
    assert last(device="cuda:1") is last(file="f" * 64) is None
    for other in (devices(binding="0.3.37"), devices(driver="590.1"), devices(driver=None)):
        assert last(Risks(machine.crashes, other)) is None


def test_what_goes_well_with_all_that_was_wished_for_is_forgotten(
    machine: Machine, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = machine.placements.place(installed)
    machine.crash(installed, Risk.LOAD, placement)
    with machine.risks.taking(installed, Risk.LOAD, placement):
        pass
    # With less: that says nothing of the whole.
    assert machine.risks.last(installed, Risk.LOAD)
    with monkeypatch.context() as later:
        later.setattr("server.service.crashes._FIRST_REST", datetime.timedelta())
        assert machine.risks.last(installed, Risk.LOAD) is None
        with machine.risks.taking(installed, Risk.LOAD, placement):
            pass
    assert machine.risks.last(installed, Risk.LOAD) is None


def test_a_window_that_ended_the_service_is_not_tried_again(machine: Machine, installed: Installed) -> None:
    class Engine:
        """Ends the process, or so it seems."""

        def __init__(self) -> None:
            self.grown: list[int] = []

        def grow(self, context_tokens: int) -> int:
            self.grown.append(context_tokens)
            if context_tokens == 20_000:
                machine.stop()
            return context_tokens

    before, engine = machine.placements.place(installed), Engine()
    loaded = Loaded(installed, engine, None, before)  # type: ignore[arg-type]
    loader = Loader(None, None, machine.placements, DiskCache(None, 0), machine.risks)  # type: ignore[arg-type]
    with contextlib.suppress(KeyboardInterrupt):
        loader.grow(loaded, 20_000)
    with pytest.raises(ModelLoadFailed, match="while it grew the context window of smollm2:135m on cpu with"):
        loader.grow(loaded, 19_000)
    loader.grow(loaded, 10_000)
    assert (engine.grown, loaded.placement.context_tokens) == ([20_000, 10_000], 10_000)
    # Loading is as it was.
    assert machine.risks.last(installed, Risk.LOAD) is None
