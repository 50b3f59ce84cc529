"""Reading ahead, with the real engines on one device, where it has to be asked for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.app import build_service
from server.config import load_settings
from server.domain.chat import ChatRequest, Message, RunOptions, ToolCall
from server.domain.errors import ServiceError
from server.routing.squeeze import Rung
from server.service import ahead as ahead_module
from server.service.report import Routing
from server.service.service import Service
from tests.running import embedded_config
from tests.service.test_service import finish

pytestmark = pytest.mark.anyio

PATIENCE = 240


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def built(embedded_model: Path, folder: Path, **router: str) -> Service:
    config = folder / "config.toml"
    keys = {"summary_chars_max": 120, **router}
    config.write_text(
        embedded_config(embedded_model, generator={"context": 1088, "slots": 1}, router=dict(keys))
    )
    return build_service(load_settings(config, {}, {"cache_dir": str(folder / "cache")}))


@pytest.fixture
async def service(embedded_model: Path, tmp_path: Path) -> AsyncIterator[Service]:
    service = built(embedded_model, tmp_path, ahead_of_need="on")
    yield service
    await service.close()


def making(number: int) -> list[Message]:
    """A turn of about 330 tokens, in which a command tells much in long words: models read tokens."""
    told = "continuing compilation without any noteworthy difficulties or unexpected interruptions"
    log = "\n".join(f"{line} {number}: {told}" for line in range(22))
    call = ToolCall("run_commands", {"command": f"make part{number}"}, f"m{number}")
    result = Message("tool", log, tool_name="run_commands", tool_call_id=f"m{number}")
    return [Message("assistant", "I build it.", tool_calls=(call,)), result]


def session(turns: int) -> ChatRequest:
    talk = [Message("user", "Build it."), *(message for number in range(turns) for message in making(number))]
    return ChatRequest("smollm2:135m", tuple(talk), options=RunOptions(max_tokens=2))


async def rungs_of(service: Service, chat: ChatRequest) -> list[Rung]:
    explained = await service.explain(chat)
    return [one.rung for one in explained.shortened]


async def until_ready(service: Service, chat: ChatRequest, summaries: int) -> None:
    for _ in range(PATIENCE):
        if (await rungs_of(service, chat)).count(Rung.SUMMARY) >= summaries:
            return
        await asyncio.sleep(0.5)
    raise AssertionError("no summaries came")


def summarised(routing: Routing) -> list[str]:
    return [one.text for one in routing.shortened if one.rung is Rung.SUMMARY]


async def test_a_session_finds_its_summaries_ready(service: Service) -> None:
    _, first = await finish(service, session(2))
    assert first.routing.shortened == ()
    await until_ready(service, session(4), 2)
    _, second = await finish(service, session(4))
    assert second.routing.helper_ns == 0
    assert len(summarised(second.routing)) == 2
    assert "<summary>" in summarised(second.routing)[0]
    _, third = await finish(service, session(5))
    assert summarised(third.routing)[:2] == summarised(second.routing)


async def test_what_was_not_ready_in_time_stays_an_outline(service: Service) -> None:
    _, first = await finish(service, session(4))
    rungs = [one.rung for one in first.routing.shortened]
    assert rungs
    assert set(rungs) == {Rung.OUTLINE}
    await asyncio.sleep(1)
    _, again = await finish(service, session(4))
    assert again.routing.shortened == first.routing.shortened


async def test_one_device_for_both_is_not_used_unasked(embedded_model: Path, tmp_path: Path) -> None:
    service = built(embedded_model, tmp_path)
    try:
        await finish(service, session(2))
        await asyncio.sleep(1)
        assert service.fleet.speed_of(service.catalogue.configured[1]).read_s is None
        assert [resident.installed.entry.role for resident in service.fleet.residents()] == ["generator"]
    finally:
        await service.close()


async def test_a_helper_that_fails_costs_no_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    async def broken(*_: object) -> str:
        asked.append(1)
        raise asked_errors[len(asked) - 1]

    asked_errors: list[Exception] = [ServiceError("out of memory"), RuntimeError("a bug")]
    monkeypatch.setattr(ahead_module, "digest", broken)
    caplog.set_level("INFO", "llm-optimizer")
    for _ in asked_errors:
        await finish(service, session(2))
        await asyncio.sleep(0.5)
    assert "nothing more is read ahead for now: out of memory" in caplog.text
    assert "reading ahead broke" in caplog.text
    assert await rungs_of(service, session(4)) == [Rung.OUTLINE] * 2
