"""The whole examination, in the order in which one would look for a fault."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.catalogue import Catalogue
from server.catalogue.known import find_known
from server.config import Settings
from server.doctor import access, binding, cards, crashes, folders, models, plan, ports, units
from server.doctor.check import Check, Status, ok, worst
from server.doctor.facts import Build, Native, Planned, SeenDevice
from server.gpu.nvml import open_nvml
from server.service.crashes import Crash, Crashes, crash_folder

_MIB = 2**20
_DECODING_TAKES_BYTES = 512 * _MIB
"""Beside the weights: what CUDA keeps for itself, and a small context."""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and the plan as a table."""

    checks: tuple[Check, ...]
    plan: tuple[Planned, ...]

    @property
    def status(self) -> Status:
        """The worst of them."""
        return worst(self.checks)


def examine(settings: Settings, config: Path | None, *, verify: bool) -> Report:
    """Look at everything. ``verify`` reads all of each model's file.

    A service that runs already is left in peace: nothing touches the cards then, for the memory that a
    look takes may be what it needs next.
    """
    catalogue = Catalogue(settings)
    listening = [ports.look_at_port(host, port) for host, port in settings.addresses]
    running = next((port.running for port in listening if port.running is not None), None)
    native, ended = binding.look_at_native(settings, at_cards=running is None)
    planned = (native.plan or ()) if running is None else plan.plan_of_running(catalogue, running)
    wanted = plan.wanted_cards(settings, planned)
    checks = (
        ok("settings", "defaults and environment" if config is None else str(config.absolute())),
        binding.judge_binding(binding.installed_version(), binding.wanted_version(), native, ended),
        *_build_checks(native.build),
        *_card_checks(native, wanted),
        *_decode_checks(native, wanted, catalogue),
        *_model_checks(catalogue, verify=verify),
        *_checks_elsewhere(catalogue),
        *map(plan.judge_plan, planned),
        *map(ports.judge_port, listening),
        *crashes.judge_crashes(crash_folder(settings.cache_dir), _crashes(settings)),
        *_rpc_checks(settings),
        access.look_at_access(settings),
        units.judge_unit(units.look_at_unit()),
        units.judge_ollama(units.active_ollama_units()),
        *_folder_checks(settings, catalogue),
    )
    return Report(checks, planned)


def _build_checks(build: Build | None) -> Iterator[Check]:
    if build is not None:
        yield binding.judge_build(build, binding.cpu_flags())


def _card_checks(native: Native, wanted: Mapping[str, str]) -> Iterator[Check]:
    """The driver and the cards are looked at even where the binding does not load: they may be why."""
    driver = cards.look_at_driver(open_nvml())
    architectures = cards.architectures_of(driver.cards)
    build = native.build
    if build is not None:
        yield binding.judge_offload(build, native.devices, wanted, architectures)
    yield cards.judge_driver(driver, wanted, None if build is None else build.cuda_runtime)
    users = cards.roles_by_card(wanted, native.devices or (), driver.cards)
    built_for = None if build is None else build.cuda_capabilities
    for card in driver.cards:
        yield cards.judge_card(
            card, built_for, users.get(card.index, ()) if users or not wanted else None, architectures
        )


def _decode_checks(native: Native, wanted: Mapping[str, str], catalogue: Catalogue) -> Iterator[Check]:
    if native.build is None:
        return
    model = models.smallest_model(catalogue)
    if model is None:
        yield binding.no_model_to_decode()
        return
    yield binding.judge_decoding(model, "CPU", binding.try_decoding(model, "CPU"))
    needed_bytes = model.stat().st_size + _DECODING_TAKES_BYTES
    for device in _devices_of(wanted, native.devices or ()):
        if device.memory_free_bytes < needed_bytes:
            yield binding.no_room_to_decode(device, needed_bytes)
        else:
            yield binding.judge_decoding(model, device.name, binding.try_decoding(model, device.name))


def _devices_of(wanted: Mapping[str, str], devices: Sequence[SeenDevice]) -> list[SeenDevice]:
    """The devices that the settings name, as far as they are there."""
    indices = {int(device.removeprefix("cuda:")) for device in wanted.values()}
    return [device for device in devices if device.cuda_index in indices]


def _model_checks(catalogue: Catalogue, *, verify: bool) -> Iterator[Check]:
    for sight in models.look_at_models(catalogue, verify=verify):
        known = find_known(catalogue.known, sight.entry.name)
        yield models.judge_model(sight, known, catalogue.models_dir)


def _crashes(settings: Settings) -> tuple[Crash, ...]:
    return tuple(Crashes(crash_folder(settings.cache_dir)).in_force().values())


def _checks_elsewhere(catalogue: Catalogue) -> Iterator[Check]:
    entries = [entry for entry in catalogue.configured if entry.settings.is_elsewhere]
    if entries:
        from server.doctor.remote import judge_remote  # noqa: PLC0415

        yield from map(judge_remote, entries)


def _rpc_checks(settings: Settings) -> Iterator[Check]:
    if settings.has_split_models:
        from server.doctor.rpc import judge_lost  # noqa: PLC0415
        from server.service.rpc_servers import remembered  # noqa: PLC0415

        yield from judge_lost(remembered(crash_folder(settings.cache_dir)))


def _folder_checks(settings: Settings, catalogue: Catalogue) -> Iterator[Check]:
    cache = None if settings.cache_dir is None else folders.look_at_folder(settings.cache_dir)
    yield folders.judge_cache(cache, settings.disk_cache_mib * _MIB)
    missing = [entry for entry in catalogue.configured_here if not entry.settings.path.exists()]
    known = [find_known(catalogue.known, entry.name) for entry in missing]
    missing_bytes = sum(model.size_bytes or 0 for model in known if model is not None)
    yield folders.judge_models_dir(folders.look_at_folder(catalogue.models_dir), missing_bytes)
