"""Answers that break or pause, from a service that does so on purpose, behind the real application."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from server.api import http
from server.api.access import Access
from server.app import build_app
from server.config import load_settings
from server.domain.chat import AnswerDelta, ChatRequest
from server.domain.errors import EngineFailed, QueueFull
from server.service.drain import Drain
from server.service.ledger import Ledger
from server.service.recent import Recent
from server.service.reply import Opening, Reply
from server.service.report import Outcome
from server.service.service import Service
from tests.api.anthropic.asking import error_of, events_of, message_body, rebuilt
from tests.api.anthropic.test_stream import outcome
from tests.running import embedded_config

pytestmark = pytest.mark.anyio

Parts = Callable[[], AsyncIterator[AnswerDelta | Outcome]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def answer(tmp_path: Path, parts: Parts, **fields: Any) -> httpx.Response:
    """What a client gets when the service answers with ``parts``."""

    async def chat(_: ChatRequest) -> Reply:
        return Reply(Opening(None, "why", 7), parts(), contextlib.AsyncExitStack())

    return await answer_of(tmp_path, chat, **fields)


async def answer_of(tmp_path: Path, chat: Any, **fields: Any) -> httpx.Response:
    config = tmp_path / "config.toml"
    config.write_text(embedded_config(tmp_path / "none.gguf"))
    watching = {"drain": Drain(), "ledger": Ledger(), "recent": Recent()}
    parts = {"chat": chat, "fleet": None, "models": None, **watching}
    settings = load_settings(config, {}, {})
    app = build_app(
        cast("Service", SimpleNamespace(**parts)), settings, Access(settings.limits, ()), cast("Any", None)
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/v1/messages", json=message_body(**fields))


async def broken() -> AsyncIterator[AnswerDelta | Outcome]:
    yield AnswerDelta("half")
    raise EngineFailed("the engine broke")


async def silent() -> AsyncIterator[AnswerDelta | Outcome]:
    await asyncio.sleep(0.2)
    yield AnswerDelta("word")
    yield outcome()


async def without_end() -> AsyncIterator[AnswerDelta | Outcome]:
    yield AnswerDelta("half")


async def test_a_stream_that_breaks_ends_with_an_error(tmp_path: Path) -> None:
    response = await answer(tmp_path, broken, stream=True)
    *_, delta, error = events_of(response)
    assert delta["delta"]["text"] == "half"
    assert error == {
        "type": "error",
        "error": {"type": "api_error", "message": "the engine broke"},
        "request_id": response.headers["request-id"],
    }


async def test_an_answer_that_breaks_has_a_status(tmp_path: Path) -> None:
    assert error_of(await answer(tmp_path, broken), 500, "api_error") == "the engine broke"
    assert error_of(await answer(tmp_path, without_end), 500, "api_error")


async def test_silence_is_broken_by_pings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEARTBEAT_S", 0.02)
    events = events_of(await answer(tmp_path, silent, stream=True))
    assert events.count({"type": "ping"}) > 3
    assert rebuilt(events)["content"] == [{"type": "text", "text": "word"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_an_overload(tmp_path: Path, stream: bool) -> None:
    async def refuse(_: ChatRequest) -> Reply:
        raise QueueFull

    text = error_of(await answer_of(tmp_path, refuse, stream=stream), 503, "overloaded_error")
    assert text.startswith("server busy")
