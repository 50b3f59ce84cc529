"""A model against the device that it is meant for, without a card: ggml's and NVML's words are given."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from server.catalogue import Catalogue, Installed, Role
from server.config import load_settings
from server.domain.errors import ModelLoadFailed
from server.engine.llamacpp.devices import Device
from server.gpu.fit import Tuning
from server.gpu.nvml import GpuReading
from server.service.crashes import Crash
from server.service.devices import Devices
from server.service.placement import NoRoom, Placements
from tests.running import embedded_config

MIB = 2**20
BIG, SMALL = "0000:01:00.0", "0000:0a:00.0"


@dataclass
class GivenLibrary:
    """ggml's devices: CUDA counts the fast card first."""

    found: tuple[Device, ...] = (
        Device("CUDA0", "NVIDIA GeForce RTX 2060 SUPER", True, BIG, 8192 * MIB, 8000 * MIB),
        Device("CUDA1", "NVIDIA GeForce GTX 1050", True, SMALL, 2048 * MIB, 2000 * MIB),
        Device("CPU", "CPU", False, None, 0, 0),
    )

    def devices(self) -> tuple[Device, ...]:
        return self.found


@dataclass
class GivenNvml:
    """NVML counts by bus; here it meets the small card first."""

    free_mib: dict[str, int] = field(default_factory=lambda: {BIG: 7900, SMALL: 1900})
    reason: str | None = None

    def devices(self) -> tuple[GpuReading, ...]:
        return tuple(
            GpuReading(index, pci_bus_id=bus, memory_free_bytes=self.free_mib[bus] * MIB)
            for index, bus in enumerate((SMALL, BIG))
            if bus in self.free_mib
        )


Install = Callable[..., Installed]


@pytest.fixture
def install(embedded_model: Path, tmp_path: Path) -> Install:
    """The generator on the fast card, with these settings beside."""

    def with_settings(**settings: object) -> Installed:
        config = tmp_path / "config.toml"
        generator = {"device": "cuda:0", **settings}
        config.write_text(embedded_config(embedded_model, generator=generator, helper={"device": "cuda:1"}))
        catalogue = Catalogue(load_settings(config, {}, {}))
        return catalogue.inspect(catalogue.of(Role.GENERATOR))

    return with_settings


@pytest.fixture
def installed(install: Install) -> Installed:
    return install()


def place(installed: Installed, library: GivenLibrary, nvml: GivenNvml) -> Placements:
    return Placements(Devices(library, nvml))  # type: ignore[arg-type]


def test_a_model_that_fits_is_placed_by_cudas_number(installed: Installed) -> None:
    placement = place(installed, GivenLibrary(), GivenNvml()).place(installed)
    assert (placement.device, placement.context_tokens) == ("CUDA0", 8192)
    assert placement.vram_bytes > 98 * MIB


def test_without_flash_attention_more_is_planned(install: Install) -> None:
    plans = [
        place(install(), GivenLibrary(), GivenNvml()).place(install(flash_attention=wanted)).plan
        for wanted in ("auto", "on", "off")
    ]
    assert plans[0] == plans[1]
    assert plans[2].compute_bytes > plans[0].compute_bytes + 100 * MIB


def test_a_model_that_cannot_fit_is_refused_with_the_numbers_of_its_own_card(installed: Installed) -> None:
    nvml = GivenNvml({BIG: 150, SMALL: 1900})
    with pytest.raises(ModelLoadFailed, match=r"needs \d+ MiB on cuda:0 .* but 150 MiB are free; lower"):
        place(installed, GivenLibrary(), nvml).place(installed)


def test_the_other_cards_room_does_not_matter(installed: Installed) -> None:
    assert place(installed, GivenLibrary(), GivenNvml({BIG: 7900, SMALL: 1})).place(installed)


def test_without_nvml_ggmls_own_figure_counts(installed: Installed) -> None:
    full = GivenLibrary((Device("CUDA0", "some card", True, None, 8192 * MIB, 100 * MIB),))
    with pytest.raises(ModelLoadFailed, match="but 100 MiB are free"):
        place(installed, full, GivenNvml({})).place(installed)


def test_a_device_that_is_not_there_is_named_with_the_remedy(installed: Installed) -> None:
    with pytest.raises(ModelLoadFailed, match=r'generator.device = "cuda:0", but .* sees only: CPU'):
        place(installed, GivenLibrary(GivenLibrary.found[2:]), GivenNvml()).place(installed)


def test_what_nobody_has_set_is_given_up_where_room_is_short(install: Install) -> None:
    installed = install(slots=1)
    placements = place(installed, GivenLibrary(), GivenNvml({BIG: 520, SMALL: 1900}))

    placement = placements.place(installed)

    assert placement.context_tokens == 8192  # the test's settings have it
    assert placement.tuning.kv_type == "q8_0"
    assert placement.reduced is not None
    assert [change.setting for change in placement.reduced.settings] == ["generator.kv_type"]
    assert str(placement.reduced).startswith("generator.kv_type f16 → q8_0: needs 5")
    assert str(placement.reduced).endswith("but 520 MiB are free")
    with pytest.raises(NoRoom):
        placements.place(installed, whole=True)


def test_what_fits_is_loaded_as_it_was_set(installed: Installed) -> None:
    placement = place(installed, GivenLibrary(), GivenNvml()).place(installed)
    assert placement.reduced is None
    assert placement.tuning == Tuning(63, 512, "f16", 8192, -1)


def test_nothing_is_given_up_where_the_user_forbids_it_or_has_set_it_all(install: Install) -> None:
    tight = GivenNvml({BIG: 520, SMALL: 1900})
    forbidden, all_set = install(slots=1, fit="off"), install(slots=1, kv_type="f16", draft=63, batch=512)
    for installed in (forbidden, all_set):
        with pytest.raises(NoRoom, match=r"but 520 MiB are free; lower generator.context or [^.]*\.[^.]*$"):
            place(installed, GivenLibrary(), tight).place(installed)


def test_a_refusal_says_what_would_still_be_needed(installed: Installed) -> None:
    nvml = GivenNvml({BIG: 400, SMALL: 1900})
    with pytest.raises(
        NoRoom, match=r"Even with draft = 0, batch = 128, kv_type = q8_0 it needs \d+ MiB"
    ) as told:
        place(installed, GivenLibrary(), nvml).place(installed)
    assert told.value.missing_bytes < 100 * MIB


def crash(least_mib: int, times: int = 1, *, shared: bool = False) -> Crash:
    at = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
    return Crash("loaded smollm2:135m on cuda:0", times, at, least_mib * MIB, shared)


def test_after_a_crash_something_is_given_up_though_all_would_fit(install: Install) -> None:
    installed = install(slots=1, memory_margin_mib=256)
    placements = place(installed, GivenLibrary(), GivenNvml())
    whole = placements.place(installed)
    whole_mib = whole.plan.total_bytes // MIB

    safer = placements.place(installed, whole=True, crash=crash(whole_mib))
    assert whole.plan.total_bytes - safer.plan.total_bytes >= 64 * MIB
    assert safer.tuning == replace(whole.tuning, kv_type="q8_0")
    assert safer.reduced is not None
    assert safer.reduced.reason == str(crash(whole_mib))

    # Where room is short beside, that says how much is given up.
    free_mib = safer.plan.total_bytes // MIB - 10
    tight = place(installed, GivenLibrary(), GivenNvml({BIG: free_mib, SMALL: 1900}))
    assert tight.place(installed, crash=crash(whole_mib)).plan.total_bytes <= free_mib * MIB
    with pytest.raises(NoRoom):
        tight.place(installed, whole=True, crash=crash(whole_mib))


def test_what_nobody_may_give_up_is_not_loaded_again(install: Install) -> None:
    all_set = install(slots=1, kv_type="f16", draft=63, batch=512)
    placements = place(all_set, GivenLibrary(), GivenNvml())
    words = (
        r"model 'smollm2:135m' is not loaded again: the service ended while it loaded smollm2:135m on cuda:0 "
        r"with 560 MiB planned \(once, at last on 2026-11-28 00:00 UTC\), and no more of it may be given up. "
        r"Lower generator.context .* see llm-optimizer doctor$"
    )
    with pytest.raises(ModelLoadFailed, match=words):
        placements.place(all_set, crash=crash(560))
    # It may have been the other model that was being loaded.
    assert placements.place(all_set, crash=crash(560, shared=True)).reduced is None
    with pytest.raises(ModelLoadFailed, match="twice"):
        placements.place(all_set, crash=crash(560, 2, shared=True))


def test_a_third_crash_is_the_last(installed: Installed) -> None:
    placements = place(installed, GivenLibrary(), GivenNvml())
    assert placements.place(installed, crash=crash(2000, 2)).reduced is None
    with pytest.raises(ModelLoadFailed, match="3 times"):
        placements.place(installed, crash=crash(2000, 3))


def test_a_window_grows_no_more_to_where_the_service_ended(installed: Installed) -> None:
    placements = place(installed, GivenLibrary(), GivenNvml())
    before = placements.place(installed)
    crashed = placements.regrow(installed, before, 20_000).plan.total_bytes // MIB
    assert placements.regrow(installed, before, 12_000, [crash(crashed)]).context_tokens == 12_000
    with pytest.raises(ModelLoadFailed, match="the service ended while it"):
        placements.regrow(installed, before, 19_000, [crash(crashed)])


def test_layers_are_left_to_the_cpu_where_the_user_allows_it(install: Install) -> None:
    installed = install(fit="layers")
    placement = place(installed, GivenLibrary(), GivenNvml({BIG: 400, SMALL: 1900})).place(installed)
    assert 0 < placement.tuning.gpu_layers < 30
    assert placement.host_bytes > 20 * MIB


def test_a_larger_window_counts_only_what_it_takes_more(installed: Installed) -> None:
    placements = place(installed, GivenLibrary(), GivenNvml({BIG: 800, SMALL: 1900}))
    before = placements.place(installed)
    after = placements.regrow(installed, before, 12_000)
    assert after.vram_bytes > before.vram_bytes
    with pytest.raises(ModelLoadFailed, match="but 800 MiB are free"):
        placements.regrow(installed, before, 60_000)


def test_a_window_that_was_cut_and_grows_again_is_told_of_until_it_is_whole(install: Install) -> None:
    installed = install(slots=1)
    free_mib = {BIG: 450, SMALL: 1900}
    placements = place(installed, GivenLibrary(), GivenNvml(free_mib))
    entry = replace(
        installed.entry, settings=installed.entry.settings.with_set({"kv_type", "draft", "batch"})
    )
    installed = replace(installed, entry=entry)
    placement = placements.place(installed)
    assert 2048 <= placement.context_tokens < 8192

    free_mib[BIG] = 4000
    for grown_tokens, told in ((7000, [("generator.context", 8192, 7000)]), (8192, []), (9000, [])):
        grown = placements.regrow(installed, placement, grown_tokens)
        settings = () if grown.reduced is None else grown.reduced.settings
        assert [(one.setting, one.wished, one.planned) for one in settings] == told
        assert grown.reduced is None or "but 450 MiB are free" in grown.reduced.reason


def test_too_little_memory_in_the_computer_is_a_refusal(
    embedded_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(embedded_model))
    catalogue = Catalogue(load_settings(config, {}, {}))
    monkeypatch.setattr("server.service.devices.available_ram_bytes", lambda: 200 * MIB)
    on_cpu = catalogue.inspect(catalogue.of(Role.HELPER))
    with pytest.raises(ModelLoadFailed, match=r"needs \d+ MiB on cpu .* but 200 MiB are free; lower helper"):
        place(on_cpu, GivenLibrary(), GivenNvml()).place(on_cpu)
