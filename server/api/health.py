"""How the cards and the engines are."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.api.figures import reduced
from server.service.fleet import Resident
from server.service.service import Service


def _model(resident: Resident) -> dict[str, Any]:
    return {
        "name": resident.installed.entry.name.display,
        "role": resident.installed.entry.role,
        "device": resident.installed.entry.settings.device,
        **asdict(resident.state),
        "reduced": reduced(resident.placement),
        "cache": asdict(resident.tiers),
        "figures": asdict(resident.figures),
    }


def health_router(service: Service) -> APIRouter:
    """``/health``, ``/health/ready`` and ``/health/gpu``."""
    router, fleet = APIRouter(), service.fleet

    async def health() -> Response:
        """For whoever watches: 200, or 503 where an engine has broken down and nobody has asked it since."""
        faults = faults_of(fleet.residents())
        if faults:
            return JSONResponse({"status": "error", "faults": faults}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def ready() -> Response:
        """For whoever sends requests: 200 once each model that is loaded at the start is there, else 503;
        503 again once the service is stopping."""
        there = {resident.installed.entry.weights for resident in fleet.residents()}
        wanted = [entry for entry in service.catalogue.configured if entry.settings.preload]
        missing = [entry.name.display for entry in wanted if entry.weights not in there]
        faults = faults_of(fleet.residents())
        stopping = service.drain.begun
        fit = not (missing or faults or stopping)
        told = {"ready": fit, "stopping": stopping, "not_loaded": missing, "faults": faults}
        return JSONResponse(told, status_code=200 if fit else 503)

    def gpu() -> dict[str, Any]:
        """A plain function: NVML may block, so it runs in a thread."""
        devices = [asdict(reading) for reading in fleet.gpus()]
        return {
            "available": bool(devices),
            "reason": fleet.gpu_fault,
            "devices": devices,
            "models": [_model(resident) for resident in fleet.residents()],
            "loading": fleet.loading(),
            "guard": service.guard.levels(),
            "recent_faults": [
                {**asdict(fault), "at": fault.at.isoformat()} for fault in fleet.faults.recent()
            ],
        }

    router.add_api_route("/health", health, methods=["GET"])
    router.add_api_route("/health/ready", ready, methods=["GET"])
    router.add_api_route("/health/gpu", gpu, methods=["GET"])
    return router


def faults_of(residents: Sequence[Resident]) -> dict[str, str]:
    """What is wrong with which model; its next request loads it anew."""
    named = {resident.installed.entry.name.display: resident.state.fault for resident in residents}
    return {name: fault for name, fault in named.items() if fault}
