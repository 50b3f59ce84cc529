"""The real service, without a socket, behind the real ingress."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from server.cluster.ingress import Ingress
from server.cluster.machine import SILENCE_S, Machine, Unfit, settings_of
from server.cluster.recent_roots import RecentRoots
from server.cluster.terms import Terms
from server.cluster.wire import Asked, Said, Whole
from tests.running import embedded_config

MODEL = "smollm2:135m"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Say hi."}], "options": {"num_predict": 4}}


class Alone:
    """A single machine in place of a cluster."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    async def ask(self, asked: Asked) -> AsyncGenerator[Said, None]:
        async with contextlib.aclosing(self.machine.answer(asked)) as said:
            async for one in said:
                yield one

    async def ask_all(self, asked: Asked, limit_s: float | None) -> list[Whole]:
        return [await self.machine.whole(asked)]


Talk = Callable[[Machine, httpx.AsyncClient], Awaitable[None]]


@contextlib.asynccontextmanager
async def running(config: Path) -> AsyncIterator[Machine]:
    listen = "0.0.0.0:8000"
    machine = Machine("one", settings_of(config, listen), lambda: settings_of(config, listen))
    await machine.start()
    try:
        yield machine
    finally:
        await machine.stop(1)


def talk(config: Path, talk: Talk) -> None:
    """Start a machine, talk with it through the ingress, stop it."""

    async def run() -> None:
        async with running(config) as machine:
            transport = httpx.ASGITransport(app=Ingress(Alone(machine), Terms()))
            async with httpx.AsyncClient(transport=transport, base_url="http://c", timeout=60) as client:
                await talk(machine, client)

    asyncio.run(run())


@pytest.fixture
def config(tmp_path: Path, embedded_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is loaded before it is asked for, but the generator."""
    monkeypatch.setenv("LLM_OPTIMIZER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LLM_OPTIMIZER_MODELS_DIR", str(tmp_path / "models"))
    file = tmp_path / "config.toml"
    file.write_text(embedded_config(embedded_model, helper={"path": str(embedded_model), "preload": "no"}))
    file.write_text(file.read_text().replace('"no"', "false"))
    return file


def test_a_machine_answers_as_the_service_does(config: Path) -> None:
    async def all_of_it(machine: Machine, client: httpx.AsyncClient) -> None:
        answer = await client.post("/api/chat", json=ASKED)
        last = json.loads(answer.text.splitlines()[-1])
        assert (answer.status_code, last["done"], last["eval_count"]) == (200, True, 4)
        assert answer.headers["x-llm-optimizer-replica"] == "one"
        again = await client.post("/v1/chat/completions", json={**ASKED, "max_tokens": 2, "options": None})
        assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        missing = await client.post("/v1/chat/completions", json={**ASKED, "model": "none"})
        assert missing.status_code == 404
        (loaded,) = (await client.get("/api/ps")).json()["models"]
        assert (loaded["name"], loaded["replica"]) == (MODEL, "one")
        assert (await client.get("/health")).json() == {
            "status": "ok",
            "replicas": {"one": {"status": "ok"}},
        }
        assert "llm_optimizer_build_info{" in (await client.get("/metrics")).text
        facts = await machine.facts()
        assert facts["loaded"] == [MODEL]
        assert facts["on_disk"] == [MODEL, f"{MODEL}-helper"]
        assert len(facts["roots"]) == 2
        machine.check()
        await client.post("/api/generate", json={"model": MODEL, "keep_alive": 0})
        await _until(lambda: _is_idle(machine))

    talk(config, all_of_it)


def test_without_keys_only_a_client_on_the_proxys_machine_changes_models(config: Path) -> None:
    async def delete(machine: Machine, _client: httpx.AsyncClient) -> None:
        for client, status in ((("10.0.0.7", 1), 403), (("127.0.0.1", 1), 404)):
            body = json.dumps({"model": "none"}).encode()
            asked = Asked("DELETE", "/api/delete", b"", (), client, "http", body)
            assert (await machine.whole(asked)).status == status

    talk(config, delete)


def test_keys_are_read_again_on_a_reload(config: Path) -> None:
    keys = config.parent / "keys.toml"

    async def reload(machine: Machine, client: httpx.AsyncClient) -> None:
        assert (await client.get("/api/ps")).status_code == 200
        keys.write_text('[me]\nkey = "a-key-that-is-long-enough"\n')
        keys.chmod(0o600)
        with_keys(config, keys)
        machine.reload()
        answer = await client.get("/api/ps")
        assert answer.status_code == 401

    talk(config, reload)


def test_who_hangs_up_frees_the_lane(config: Path) -> None:
    endless = {**ASKED, "options": {"num_predict": -1, "ignore_eos": True}}

    async def hang_up(machine: Machine, client: httpx.AsyncClient) -> None:
        asked = Asked("POST", "/api/chat", b"", (), None, "http", json.dumps(endless).encode())
        said = machine.answer(asked)
        for _ in range(4):
            await anext(said)
        assert await _running(client) == 1
        await said.aclose()
        await _until(lambda: _rests(client))

    talk(config, hang_up)


def with_keys(config: Path, keys: Path) -> None:
    config.write_text(f'keys_file = "{keys}"\n{config.read_text()}')


async def _until(fulfilled: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await fulfilled():  # noqa: ASYNC110  # it is asked for over HTTP
            await asyncio.sleep(0.05)


async def _is_idle(machine: Machine) -> bool:
    return not (await machine.facts())["loaded"]


async def _rests(client: httpx.AsyncClient) -> bool:
    return await _running(client) == 0


async def _running(client: httpx.AsyncClient) -> int:
    (loaded,) = (await client.get("/api/ps")).json()["models"]
    running: int = loaded["slots"]["running"]
    return running


def test_a_machine_without_any_model_does_not_start(config: Path) -> None:
    config.write_text(config.read_text().replace(".gguf", ".none"))

    async def start() -> None:
        async with running(config):
            pass

    with pytest.raises(Unfit, match="no model can be loaded"):
        asyncio.run(start())


def test_a_machine_whose_models_make_no_step_says_so(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(machine: Machine, _client: httpx.AsyncClient) -> None:
        machine.check()
        monkeypatch.setattr(machine._signs, "_heard_s", machine._signs._heard_s - SILENCE_S - 60)
        with pytest.raises(Unfit, match="makes no step"):
            machine.check()

    talk(config, silent)


def test_the_last_conversations_are_remembered_and_no_more() -> None:
    roots = RecentRoots(most=2)
    for root in (b"1", b"2", b"1", b"3"):
        roots.add(root)
    assert roots.all() == (b"1", b"3")


def test_what_the_machines_file_says_of_addresses_is_not_meant(config: Path) -> None:
    config.write_text(f'listen = ["127.0.0.1:1"]\n{config.read_text()}')
    assert settings_of(config, "0.0.0.0:8000").addresses == (("0.0.0.0", 8000),)
