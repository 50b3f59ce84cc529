"""How the cards and the engines are."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from server.service.fleet import Fleet, Resident


def _model(resident: Resident) -> dict[str, Any]:
    return {
        "name": resident.installed.entry.name.display,
        "role": resident.installed.entry.role,
        "device": resident.installed.entry.settings.device,
        **asdict(resident.state),
        "cache": asdict(resident.tiers),
        "figures": asdict(resident.figures),
    }


def health_router(fleet: Fleet) -> APIRouter:
    """``/health/gpu``."""
    router = APIRouter()

    def gpu() -> dict[str, Any]:
        """A plain function: NVML may block, so it runs in a thread."""
        devices = [asdict(reading) for reading in fleet.gpus()]
        return {
            "available": bool(devices),
            "reason": fleet.gpu_fault,
            "devices": devices,
            "models": [_model(resident) for resident in fleet.residents()],
            "loading": fleet.loading(),
        }

    router.add_api_route("/health/gpu", gpu, methods=["GET"])
    return router
