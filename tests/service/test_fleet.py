"""Models that share a device, with real engines and a given amount of free memory."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bench.tiny_models import write_bert, write_llama
from server.api.ollama import models
from server.app import build_service
from server.catalogue import Entry, ModelName, Parameters, Recipe
from server.catalogue.records import Example
from server.chat.template import CHATML, ChatTemplate
from server.config import load_settings
from server.domain.chat import ChatRequest, Message, RunOptions
from server.domain.errors import InvalidRequest, ModelLoadFailed, QueueFull
from server.routing.decide import Strategy
from server.service.devices import Devices
from server.service.helper import ReadyHelper
from server.service.loading import Loader
from server.service.report import Outcome
from server.service.service import Service
from tests.e2e.conversations import as_several_messages
from tests.running import embedded_config

pytestmark = pytest.mark.anyio
MIB = 2**20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Two configured models, and three files that lie there."""
    models = tmp_path / "models"
    models.mkdir()
    big, small = write_llama(tmp_path / "big.gguf"), write_llama(tmp_path / "small.gguf")
    for name in ("one", "two"):
        write_llama(models / f"{name}.gguf")
    write_bert(models / "embed.gguf")
    config = tmp_path / "config.toml"
    common = {"context": 1024, "memory_margin_mib": 0, "keep_alive": "-1", "kv_type": "f16"}
    tables: dict[str, dict[str, Any]] = {"generator": {**common, "name": "big", "path": str(big)}}
    limits = {"strategy_a_max": 50, "strategy_b_max": 5000, "summary_chars_max": 100}
    tables["router"] = {**limits, "token_estimator": "chars"}
    tables["helper"] = {**common, "name": "small", "path": str(small)}
    config.write_text(f'models_dir = "{models}"\n' + embedded_config(big, **tables))
    built = build_service(load_settings(config, {}, {}))
    yield built
    await built.close()


class Memory:
    """So much is free as models that are loaded leave of ``total_bytes``."""

    def __init__(self, service: Service, models: float) -> None:
        self._service = service
        entry = service.catalogue.find("one")
        placements = service.fleet._placements
        self.each_bytes = placements.place(service.catalogue.inspect(entry)).plan.total_bytes
        self.total_bytes = int(models * self.each_bytes)

    def free_bytes(self) -> int:
        berths = self._service.fleet._berths.values()
        return self.total_bytes - sum(self.each_bytes for berth in berths if berth.loaded is not None)


def with_room_for(service: Service, models: float, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(service, models)
    monkeypatch.setattr("server.service.devices.available_ram_bytes", memory.free_bytes)
    # On the CPU weights do not count as taken; here they do.
    monkeypatch.setattr(
        "server.service.placement.Placement.freed_bytes", property(lambda self: self.plan.total_bytes)
    )


async def load(service: Service, *names: str) -> None:
    for name in names:
        await service.fleet.load(service.catalogue.find(name))


def loaded(service: Service) -> set[str]:
    return {resident.installed.entry.name.model for resident in service.fleet.residents()}


async def test_the_model_that_was_used_longest_ago_makes_room(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(service, 3.5, monkeypatch)
    await load(service, "big", "one", "two", "one")
    await load(service, "small")
    assert loaded(service) == {"big", "one", "small"}


async def test_models_that_are_to_stay_go_last_and_come_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(service, 2.5, monkeypatch)
    await load(service, "big", "small", "one")
    assert loaded(service) == {"small", "one"}
    await load(service, "big")
    assert loaded(service) == {"small", "big"}


async def test_a_model_in_use_stays(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with_room_for(service, 1.5, monkeypatch)
    async with service.fleet.lease(service.catalogue.find("one")):
        with pytest.raises(ModelLoadFailed, match=r"model 'two:latest' needs \d+ MiB on cpu .* MiB are free"):
            await load(service, "two")
        assert loaded(service) == {"one"}
    await load(service, "two")
    assert loaded(service) == {"two"}


async def test_nobody_goes_for_a_model_that_cannot_fit_at_all(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(service, 1.2, monkeypatch)
    await load(service, "one")
    large = Recipe(parameters=Parameters(num_ctx=200_000))
    entry = service.catalogue.find("big")
    record = service.catalogue.record_over(service.catalogue.find("two"), ModelName.parse("huge"), large, "")
    service.catalogue.add(record)
    monkeypatch.setattr("server.catalogue.entries.Installed.window_tokens", 200_000)
    with pytest.raises(ModelLoadFailed, match=r"huge:latest' needs"):
        await load(service, "huge")
    assert entry is not None
    assert loaded(service) == {"one"}


async def test_aliases_are_one_model_in_memory(service: Service) -> None:
    one = service.catalogue.find("one")
    for name, base in (("again", "one"), ("coder", "big")):
        entry = service.catalogue.find(base)
        record = service.catalogue.record_over(entry, ModelName.parse(name), Recipe(), "")
        service.catalogue.add(record)
    lease, find = service.fleet.lease, service.catalogue.find
    async with lease(find("again")) as first, lease(one) as second:
        assert first is second
    async with lease(find("coder")) as first, lease(find("big")) as second:
        assert first is second
    assert len(service.fleet.residents()) == 2
    service.fleet.unload(service.catalogue.find("coder"))
    await asyncio.sleep(0.5)
    assert len(service.fleet.residents()) == 1


async def test_what_is_forgotten_ends_its_work_first(service: Service) -> None:
    one = service.catalogue.find("one")
    async with service.fleet.lease(one) as old:
        await service.fleet.forget(one)
        assert service.fleet.residents() == ()
        assert old.engine.state.fault is None
        async with service.fleet.lease(one) as new:
            assert new is not old
    for _ in range(200):
        if old.engine.state.fault:
            break
        await asyncio.sleep(0.02)
    assert old.engine.state.fault == "the model was unloaded"
    assert loaded(service) == {"one"}
    await service.fleet.forget(one)
    assert service.fleet.residents() == ()


async def test_a_model_for_embeddings_is_listed_like_others(service: Service) -> None:
    embed = service.catalogue.find("embed")
    async with service.fleet.lease_embedder(embed) as held:
        assert held.context_tokens == 256
        [resident] = service.fleet.residents()
        assert (resident.state.slots, resident.state.context_tokens) == (1, 256)
        assert resident.placement.size_bytes > 0
    with pytest.raises(InvalidRequest, match="does not support chat"):
        async with service.fleet.lease(embed):
            pass
    with pytest.raises(InvalidRequest, match="does not support embeddings"):
        async with service.fleet.lease_embedder(service.catalogue.find("one")):
            pass


async def test_devices_do_not_wait_for_each_other(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """One load hangs: another on its device waits for it, one on another device does not."""
    hang, hanging = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    real = Loader.load

    def slow(self: Loader, entry: Entry, *, whole: bool) -> object:
        if entry.name.model == "one":
            loop.call_soon_threadsafe(hanging.set)
            asyncio.run_coroutine_threadsafe(hang.wait(), loop).result(60)
        return real(self, entry, whole=whole)

    monkeypatch.setattr(Loader, "load", slow)
    first = asyncio.create_task(load(service, "one"))
    await hanging.wait()
    second = asyncio.create_task(load(service, "two"))
    other = service.catalogue.find("small")
    settings = other.settings.model_copy(update={"device": "cuda:7"})
    monkeypatch.setattr(Devices, "ggml_name", lambda *_: "CPU")
    monkeypatch.setattr(Devices, "free_bytes", lambda *_: None)
    moved = Entry(other.role, other.name, settings, "elsewhere")
    await asyncio.wait_for(service.fleet.load(moved), 60)
    assert not second.done()
    assert loaded(service) == {"small"}
    hang.set()
    await asyncio.gather(first, second)
    assert loaded(service) == {"one", "two", "small"}


async def test_an_alias_of_the_generator_is_routed_and_keeps_its_own_texts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model itself puts in front is neither shortened nor left out."""
    recipe = Recipe(
        system="Be terse.",
        messages=(Example(role="user", content="Example?"), Example(role="assistant", content="Example!")),
        parameters=Parameters(num_predict=3),
    )
    big = service.catalogue.find("big")
    service.catalogue.add(service.catalogue.record_over(big, ModelName.parse("coder"), recipe, ""))

    async def summary(*_: object) -> str:
        return "The log holds timeouts of db-1."

    monkeypatch.setattr(ReadyHelper, "answer", summary)
    rendered: list[str] = []
    real = ChatTemplate.render

    def render(self: ChatTemplate, *given: Any, **named: Any) -> str:
        rendered.append(real(self, *given, **named))
        return rendered[-1]

    monkeypatch.setattr(ChatTemplate, "render", render)
    messages = [Message(message["role"], message["content"]) for message in as_several_messages(400)[1:]]
    reply = await service.chat(ChatRequest("coder", tuple(messages)))
    outcome = [part async for part in reply][-1]
    await reply.aclose()
    assert isinstance(outcome, Outcome)
    assert (outcome.routing.strategy, outcome.usage.generated_tokens) == (Strategy.B, 3)
    assert "The log holds timeouts of db-1." in rendered[-1]
    front = (
        "system\nBe terse.<|im_end|>\n<|im_start|>user\nExample?<|im_end|>\n<|im_start|>assistant\nExample!"
    )
    assert rendered[-1].startswith(f"<|im_start|>{front}<|im_end|>\n")
    assert outcome.routing.tokens_sent < outcome.routing.tokens_received


async def test_a_model_that_still_loads_has_a_queue_with_an_end(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()
    load_now = Loader.load

    def load_later(self: Loader, entry: Entry, *, whole: bool) -> Any:
        may_load.wait()
        return load_now(self, entry, whole=whole)

    monkeypatch.setattr(Loader, "load", load_later)
    entry = service.catalogue.find("one")
    room = entry.settings.slots + entry.settings.queue

    async def use() -> None:
        async with service.fleet.lease(entry):
            pass

    waiting = [asyncio.create_task(use()) for _ in range(room)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await use()
    assert await asyncio.to_thread(service.catalogue.inspect, entry)
    [arriving] = service.fleet.arriving()
    assert (arriving.installed.entry.name, arriving.part, arriving.waiting) == (entry.name, 0, room)
    assert models.arriving(arriving)["state"] == "loading"
    may_load.set()
    await asyncio.gather(*waiting)
    await use()
    assert (loaded(service), service.fleet.arriving()) == ({"one"}, ())


@pytest.mark.parametrize("think", [False, None])
async def test_thinking_that_a_template_opens_by_itself_is_never_content(
    service: Service, think: bool | None
) -> None:
    async with service.fleet.lease(service.catalogue.find("one")) as one:
        one.template = ChatTemplate(CHATML + "<think>\n")
    options = RunOptions(max_tokens=5, think=think)
    reply = await service.chat(ChatRequest("one", (Message("user", "Hi"),), options=options))
    answer, _ = await reply.whole()
    assert (answer.content, bool(answer.thinking)) == ("", True)


async def test_who_does_not_fit_alone_is_loaded_with_less_and_says_so(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_room_for(service, 0.9, monkeypatch)
    caplog.set_level("WARNING", "llm-optimizer")
    await load(service, "one")
    (resident,) = service.fleet.residents()

    assert resident.placement.reduced is not None
    given_up = {change.setting: change.planned for change in resident.placement.reduced.settings}
    assert given_up.keys() <= {"generator.draft", "generator.batch"}
    spec = service.fleet._berths[resident.installed.entry.weights].loaded.engine.spec  # type: ignore[union-attr]
    assert spec.batch_tokens == given_up.get("generator.batch", 512)
    assert spec.draft_tokens == given_up.get("generator.draft", 63)
    (line,) = [record.getMessage() for record in caplog.records if "with less" in record.getMessage()]
    assert "generator.batch 512 →" in line
    shown = models.resident(resident)["reduced"]
    assert shown["reason"] in line
    assert {one["setting"]: one["planned"] for one in shown["settings"]} == given_up


async def test_idle_models_go_before_anything_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(service, 1.95, monkeypatch)
    await load(service, "one", "two")
    (resident,) = service.fleet.residents()
    assert resident.installed.entry.name.model == "two"
    assert resident.placement.reduced is None
    assert models.resident(resident)["reduced"] is None


async def test_what_cannot_leave_leaves_less_to_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(service, 1.9, monkeypatch)
    one = service.catalogue.find("one")
    async with service.fleet.lease(one):
        await load(service, "two")
        reduced = {
            resident.installed.entry.name.model: resident.placement.reduced is not None
            for resident in service.fleet.residents()
        }
    assert reduced == {"one": False, "two": True}
