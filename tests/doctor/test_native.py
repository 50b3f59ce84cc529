"""The plan as the child makes it, without a card: ggml's and NVML's words are given."""

import json
import re
from pathlib import Path

from server.catalogue import Catalogue, Role
from server.config import load_settings
from server.doctor.facts import Planned
from server.doctor.handover import hand_over, take_over
from server.doctor.native import Shared, planned_models
from server.engine.llamacpp.devices import Device
from server.gpu.nvml import GpuReading
from server.service.crashes import Crashes
from server.service.placement import Placements
from server.service.risks import Risk, Risks
from tests.running import embedded_config

MIB = 2**20
BUS = "0000:01:00.0"


class GivenLibrary:
    version = "0.3.36"

    def devices(self) -> tuple[Device, ...]:
        return (
            Device("CUDA0", "RTX 2060 SUPER", True, BUS, 8192 * MIB, 8000 * MIB),
            Device("CPU", "CPU", False, None, 0, 0),
        )


class GivenNvml:
    reason = None
    driver_version = "580.95"

    def __init__(self, free_mib: int) -> None:
        self.free_mib = free_mib

    def devices(self) -> tuple[GpuReading, ...]:
        return (GpuReading(0, pci_bus_id=BUS, memory_free_bytes=self.free_mib * MIB),)


def plan(model: Path, folder: Path, free_mib: int, **helper: str) -> tuple[Planned, ...]:
    config = folder / "config.toml"
    config.write_text(
        embedded_config(model, generator={"device": "cuda:0"}, helper={"device": "cuda:0", **helper})
    )
    devices = Shared(GivenLibrary(), GivenNvml(free_mib))  # type: ignore[arg-type]
    risks = Risks(Crashes(folder / "crashes"), devices)
    return tuple(planned_models(Catalogue(load_settings(config, {}, {})), devices, risks))


def test_the_second_model_on_a_card_has_what_the_first_leaves(embedded_model: Path, tmp_path: Path) -> None:
    generator, helper = plan(embedded_model, tmp_path, 2000)
    assert generator.total_bytes is not None
    assert generator.margin_bytes is not None
    assert (generator.device, generator.free_bytes) == ("cuda:0", 2000 * MIB)
    assert helper.free_bytes == 2000 * MIB - (generator.total_bytes - generator.margin_bytes)
    assert generator.refusal is helper.refusal is None


def test_what_ended_the_service_is_planned_with_less(embedded_model: Path, tmp_path: Path) -> None:
    plan(embedded_model, tmp_path, 2000)
    catalogue = Catalogue(load_settings(tmp_path / "config.toml", {}, {}))
    installed = catalogue.inspect(catalogue.of(Role.GENERATOR))
    devices, crashes = Shared(GivenLibrary(), GivenNvml(2000)), tmp_path / "crashes"  # type: ignore[arg-type]
    placement = Placements(devices).place(installed)
    with Risks(Crashes(crashes), devices).taking(installed, Risk.LOAD, placement):
        (marker,) = crashes.iterdir()
        left = {**json.loads(marker.read_text()), "started": "1"}
        (crashes / "risk-left.json").write_text(json.dumps(left))
    generator, helper = plan(embedded_model, tmp_path, 2000)
    words = "generator.kv_type f16 → q8_0: the service ended while it loaded smollm2:135m on cuda:0"
    assert (generator.reduced or "").startswith(words)
    assert helper.reduced is None


def test_a_child_knows_what_the_user_has_set(embedded_model: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(embedded_model, generator={"batch": 256}))
    settings = load_settings(config, {}, {})
    there = take_over(hand_over(settings))
    assert there == settings
    assert there.generator.set_by_user == settings.generator.set_by_user >= {"batch", "context"}
    assert "kv_type" not in there.generator.set_by_user
    assert there.helper.set_by_user == settings.helper.set_by_user


def test_what_fits_alone_has_to_do_with_less_beside_the_other(embedded_model: Path, tmp_path: Path) -> None:
    generator, helper = plan(embedded_model, tmp_path, 570)
    assert (generator.refusal, generator.reduced) == (None, None)
    assert helper.refusal is None
    assert "helper.batch 512 → " in (helper.reduced or "")


def test_what_finds_no_place_beside_the_other_is_refused(embedded_model: Path, tmp_path: Path) -> None:
    _, helper = plan(embedded_model, tmp_path, 555)
    assert helper.refusal is not None
    assert re.search(r"needs \d+ MiB on cuda:0 .* MiB are free", helper.refusal)


def test_what_does_not_fit_at_all_has_the_numbers_of_the_placement(
    embedded_model: Path, tmp_path: Path
) -> None:
    generator, helper = plan(embedded_model, tmp_path, 100)
    assert generator.refusal is not None
    assert generator.free_bytes == helper.free_bytes == 100 * MIB
    assert generator.total_bytes is not None
    assert f"it needs {-(-generator.total_bytes // MIB)} MiB" in generator.refusal


def test_a_device_that_is_not_there_and_a_file_that_is_not(embedded_model: Path, tmp_path: Path) -> None:
    _, elsewhere = plan(embedded_model, tmp_path, 2000, device="cuda:1")
    assert "sees only: CUDA0, CPU" in (elsewhere.refusal or "")
    _, missing = plan(embedded_model, tmp_path, 2000, path=str(tmp_path / "missing.gguf"))
    assert missing.unreadable
