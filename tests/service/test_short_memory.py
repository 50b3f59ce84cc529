"""A device that other programs fill: the service with a real engine, and what the system says of its memory
planted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.app import build_service
from server.config import load_settings
from server.domain.chat import ChatRequest, Message, RunOptions
from server.domain.errors import DeviceShort, ServiceError
from server.gpu.guard import Level
from server.service import devices as devices_module
from server.service.service import Service
from tests.running import embedded_config
from tests.service.test_service import finish

pytestmark = pytest.mark.anyio
MIB = 2**20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def service(
    embedded_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(embedded_model, generator={"context": 512, "memory_margin_mib": 256}))
    built = build_service(load_settings(config, {}, {}))
    built.fleet.gate.patience_s = 0.1
    yield built
    await built.close()


def chat(text: str = "Hi") -> ChatRequest:
    return ChatRequest("smollm2:135m", (Message("user", text),), options=RunOptions(max_tokens=2))


async def spilled(service: Service) -> bool:
    """What was kept in the device's memory is in the host's."""
    for _ in range(300):
        (resident,) = service.fleet.residents()
        if resident.tiers.ram_bytes and not resident.state.kept_tokens:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_idle_models_leave_a_short_device_and_come_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await finish(service, chat("Hi " * 100))
    with monkeypatch.context() as patch:
        patch.setattr(devices_module, "available_ram_bytes", lambda: 100 * MIB)
        for _ in range(3):
            await service.guard.look_once()
        assert service.guard.level_of("cpu") is Level.SPILL
        assert await spilled(service)
        with pytest.raises(ServiceError, match="short of memory: 100 MiB are free of the 256 MiB"):
            await finish(service, chat())
        assert len(service.fleet.residents()) == 1
        await service.guard.look_once()
        assert service.fleet.residents() == ()
        assert [fault.where for fault in service.fleet.faults.recent()] == ["cpu"]
    await service.guard.look_once()
    text, _ = await finish(service, chat())
    assert text


async def test_an_answer_under_way_runs_to_its_end(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = await service.chat(
        ChatRequest("smollm2:135m", (Message("user", "Hi"),), options=RunOptions(max_tokens=30))
    )
    with monkeypatch.context() as patch:
        patch.setattr(devices_module, "available_ram_bytes", lambda: 0)
        for _ in range(5):
            await service.guard.look_once()
    parts = [part async for part in reply]
    await reply.aclose()
    assert len(parts) > 1
    assert len(service.fleet.residents()) == 1


async def test_what_nobody_waits_for_does_not_wait_either(service: Service) -> None:
    service.fleet.gate.shut("cpu", "it is short")
    entry = service.catalogue.find("smollm2:135m")
    with pytest.raises(DeviceShort):
        async with asyncio.timeout(0.05), service.fleet.lease(entry, waits=False):
            pass
