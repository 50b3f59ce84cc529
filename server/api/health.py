"""How the cards are."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from server.service.fleet import Fleet


def health_router(fleet: Fleet) -> APIRouter:
    """``/health/gpu``."""
    router = APIRouter()

    def gpu() -> dict[str, Any]:
        """A plain function: NVML may block, so it runs in a thread."""
        devices = [asdict(reading) for reading in fleet.gpus()]
        return {"available": bool(devices), "reason": fleet.gpu_fault, "devices": devices}

    router.add_api_route("/health/gpu", gpu, methods=["GET"])
    return router
