"""How the cards and the engines are."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.api.figures import reduced, split_of
from server.api.health_answers import (
    Card,
    CardPlan,
    GpuHealth,
    Health,
    LoadedModel,
    Margin,
    ModelPlan,
    PastFault,
    Process,
    Ready,
    Reduced,
    RemoteHealth,
    SplitPart,
)
from server.gpu.nvml import GpuReading
from server.service.berths import Resident
from server.service.devices import others_bytes_of, own_bytes_of
from server.service.elsewhere import Distant
from server.service.fleet import Fleet
from server.service.guard import Guard
from server.service.placement import Placement
from server.service.service import Service

Responses = dict[int | str, dict[str, Any]]


def health_router(service: Service) -> APIRouter:
    """``/health``, ``/health/ready`` and ``/health/gpu``."""
    router, fleet = APIRouter(), service.fleet

    async def health() -> Response:
        """For whoever watches: 200, or 503 where an engine has broken down and nobody has asked it since."""
        faults = faults_of(_everywhere(fleet))
        told = {"lost": dict(fleet.lost)} if fleet.lost else {}
        if faults:
            return JSONResponse({"status": "error", "faults": faults, **told}, status_code=503)
        return JSONResponse({"status": "ok", **told})

    async def ready() -> Response:
        """For whoever sends requests: 200 once each model that is loaded at the start is there, else 503;
        503 again once the service is stopping."""
        there = {resident.installed.entry.weights for resident in fleet.residents()}
        wanted = [entry for entry in service.catalogue.configured if entry.settings.is_preloaded]
        missing = [entry.name.display for entry in wanted if entry.weights not in there]
        faults = faults_of(_everywhere(fleet))
        stopping = service.drain.begun
        fit = not (missing or faults or stopping)
        told = {"ready": fit, "stopping": stopping, "not_loaded": missing, "faults": faults}
        return JSONResponse(told, status_code=200 if fit else 503)

    async def gpu() -> GpuHealth:
        return gpu_health(service)

    unwell: Responses = {503: {"model": Health, "description": "An engine has broken down"}}
    unready: Responses = {503: {"model": Ready, "description": "Not yet"}}
    router.add_api_route("/health", health, methods=["GET"], response_model=Health, responses=unwell)
    router.add_api_route("/health/ready", ready, methods=["GET"], response_model=Ready, responses=unready)
    router.add_api_route("/health/gpu", gpu, methods=["GET"])
    return router


def gpu_health(service: Service) -> GpuHealth:
    """Cards as of the last look, a second ago: a slow driver holds nobody up."""
    fleet, margins = service.fleet, margins_of(service.guard)
    seen, residents = fleet.seen(), fleet.residents()
    return GpuHealth(
        available=bool(seen.cards),
        reason=seen.reason,
        seen_at=seen.at,
        devices=[
            card_of(reading, device, residents, margins, os.getpid())
            for reading, device in zip(seen.cards, seen.names, strict=True)
        ],
        models=[model_of(resident) for resident in residents],
        remote=[remote_of(distant) for distant in fleet.elsewhere.distant()],
        loading=dict(fleet.loading()),
        guard=margins,
        recent_faults=[PastFault(**asdict(fault)) for fault in fleet.faults.recent()],
    )


def faults_of(models: Iterable[Resident | Distant]) -> dict[str, str]:
    """What is wrong with which model; its next request loads it anew, or tries its server again."""
    named = {one.installed.entry.name.display: one.state.fault for one in models}
    return {name: fault for name, fault in named.items() if fault}


def _everywhere(fleet: Fleet) -> Iterator[Resident | Distant]:
    yield from fleet.residents()
    yield from fleet.elsewhere.distant()


def margins_of(guard: Guard) -> dict[str, Margin]:
    """The devices that have models on them."""
    return {
        device: Margin.model_validate({**asdict(watched), "level": guard.level_of(device).name.lower()})
        for device, watched in guard.watched().items()
    }


def card_of(
    reading: GpuReading,
    device: str | None,
    residents: Sequence[Resident],
    margins: Mapping[str, Margin],
    own_pid: int,
) -> Card:
    """A card, with what is on it. ``device``: its name in the settings, as far as it is known."""
    told = asdict(reading)
    here = [one for one in residents if device in one.installed.entry.settings.places]
    planned_bytes = sum(one.placement.taken_on(device) for one in here) if device else 0
    own_bytes = own_bytes_of(reading, own_pid, uses_it=bool(here))
    return Card(
        **{name: value for name, value in told.items() if name != "processes"},
        device=device,
        memory_own_bytes=own_bytes,
        memory_others_bytes=others_bytes_of(reading, own_bytes),
        plan=None if device is None else _plan_of_card(planned_bytes, own_bytes),
        margin=None if device is None else margins.get(device),
        models=[one.installed.entry.name.display for one in here],
        processes=None
        if reading.processes is None
        else [Process(**asdict(one), ours=one.pid == own_pid) for one in reading.processes],
    )


def _plan_of_card(planned_bytes: int, actual_bytes: int | None) -> CardPlan:
    difference_bytes = None if actual_bytes is None else actual_bytes - planned_bytes
    return CardPlan(planned_bytes=planned_bytes, actual_bytes=actual_bytes, difference_bytes=difference_bytes)


def model_of(resident: Resident) -> LoadedModel:
    """A loaded model, what was planned for it, and what its engine has done."""
    entry, given_up = resident.installed.entry, reduced(resident.placement)
    return LoadedModel(
        name=entry.name.display,
        role=entry.role,
        device=entry.settings.device,
        expires_at=resident.expires_at,
        **asdict(resident.state),
        reduced=None if given_up is None else Reduced(**given_up),
        split=None
        if (parts := split_of(resident.placement)) is None
        else [SplitPart(**part) for part in parts],
        plan=_plan_of_model(resident.placement, entry.settings.device),
        cache=resident.tiers,
        figures=resident.figures,
    )


def remote_of(distant: Distant) -> RemoteHealth:
    """A model that another server runs."""
    entry, spec = distant.installed.entry, distant.spec
    return RemoteHealth(
        name=entry.name.display,
        role=entry.role,
        host=spec.host,
        api=spec.api.value,
        model=spec.model,
        context_tokens=spec.context_tokens,
        slots=spec.slots,
        is_up=distant.state.is_up,
        **asdict(distant.state),
        figures=distant.figures,
    )


def _plan_of_model(placement: Placement, device: str) -> ModelPlan:
    """That of the device which the settings name first."""
    plan = asdict(placement.plan)
    on_cpu = placement.device == "CPU"
    return ModelPlan(
        **plan,
        device_bytes=placement.host_bytes if on_cpu else placement.taken_on(device),
        host_bytes=0 if on_cpu else placement.host_bytes,
    )
