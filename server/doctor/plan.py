"""Whether the configured models fit where the settings put them."""

from collections.abc import Sequence

from server.catalogue import Catalogue, Entry
from server.config import Settings
from server.doctor.check import Check, fault, ok, warning
from server.doctor.facts import Planned
from server.doctor.ports import Running

_MIB = 2**20


def wanted_cards(settings: Settings, planned: Sequence[Planned]) -> dict[str, str]:
    """The ``cuda:N`` of each role that asks for one.

    A card that is named by its UUID or PCI address has its number in the plan; without a plan it is left out.
    """
    roles = {"generator": settings.generator, "helper": settings.helper}
    devices = {role: model.device for role, model in roles.items() if not model.is_elsewhere}
    devices.update({plan.role: plan.device for plan in planned})
    return {role: device for role, device in devices.items() if device.startswith("cuda:")}


def plan_of_running(catalogue: Catalogue, running: Running) -> tuple[Planned, ...]:
    """What a service has loaded of the configured models, as far as it tells."""
    return tuple(_running(entry, running) for entry in catalogue.configured_here)


def judge_plan(planned: Planned) -> Check:
    """One model on its device."""
    if planned.running and planned.loaded is None:
        found = "not told: the running service wants a key"
        return ok("plan", found, subject=planned.role)
    if planned.running:
        found = "is loaded" if planned.loaded else "is not loaded"
        return ok(
            "plan",
            f"{planned.model} {found} on {planned.device} by the running service",
            subject=planned.role,
        )
    if planned.unreadable:
        return warning(
            "plan", "not planned: the model has no file", "see its model above", subject=planned.role
        )
    if planned.refusal is not None:
        return fault("plan", *_parted(planned), subject=planned.role)
    if planned.reduced is not None:
        found = f"{planned.model} fits on {planned.device} with less: {planned.reduced}"
        return warning("plan", found, "docs/tuning.md says what gives way", subject=planned.role)
    return ok("plan", f"{planned.model} fits {_fitting(planned)}", subject=planned.role)


def _fitting(planned: Planned) -> str:
    """Where, and how much it takes."""
    if planned.split is not None:
        parts = (f"{_mib(size_bytes)} MiB on {device}" for device, size_bytes in planned.split.items())
        return f"split: {', '.join(parts)}"
    free = (
        "of unknown free memory" if planned.free_bytes is None else f"of {_mib(planned.free_bytes)} MiB free"
    )
    return f"on {planned.device}: {_mib(planned.total_bytes)} MiB {free}"


def _running(entry: Entry, running: Running) -> Planned:
    role, model, device = entry.section, entry.name.display, entry.settings.device
    if running.models is None:
        return Planned(role, model, device, running=True, loaded=None)
    loaded = next((loaded for loaded in running.models if loaded.role == role), None)
    if loaded is None:
        return Planned(role, model, device, running=True)
    return Planned(
        role, loaded.name, loaded.device, context_tokens=loaded.context_tokens, running=True, loaded=True
    )


def _parted(planned: Planned) -> tuple[str, str]:
    """The refusal's own words: what is wrong, and what to do, which they end with."""
    found, parting, remedy = (planned.refusal or "").rpartition("; ")
    if not parting:
        found, parting, remedy = (planned.refusal or "").rpartition(". ")
    if not parting:
        return remedy, f"see {planned.role}.device and {planned.role}.context"
    return found, remedy[:1].lower() + remedy[1:]


def _mib(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else str(-(-size_bytes // _MIB))
