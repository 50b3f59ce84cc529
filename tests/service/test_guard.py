"""The memory guard over scripted looks: which of the effects come when, and who waits meanwhile."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from server.domain.errors import DeviceShort
from server.gpu.guard import Level, Sight, Watched
from server.service.faults import Faults
from server.service.gate import Gate
from server.service.guard import Guard

pytestmark = pytest.mark.anyio
MIB = 2**20
GPU = "cuda:1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "llm-optimizer"):
        yield


class Recorded:
    """Effects that only note what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    async def rest(self, device: str) -> None:
        self.asked.append(("rest", device))

    async def spill(self, device: str) -> None:
        self.asked.append(("spill", device))

    async def leave(self, device: str, wanted_bytes: int) -> None:
        self.asked.append(("leave", device, wanted_bytes // MIB))


class Watching:
    """A guard that sees what a test says: free MiB of a device with a margin of 100."""

    def __init__(self) -> None:
        self.effects, self.faults = Recorded(), Faults()
        self.gate = Gate(patience_s=0.05)
        self.sight = Sight({}, {})
        self.guard = Guard(self._look, self.gate, self.effects, self.faults)

    async def _look(self) -> Sight:
        return self.sight

    async def see(self, free_mib: int | None) -> list[tuple[object, ...]]:
        free_bytes = None if free_mib is None else free_mib * MIB
        return await self.see_all(Sight({GPU: Watched(free_bytes, 100 * MIB)}, {}))

    async def see_all(self, sight: Sight) -> list[tuple[object, ...]]:
        self.sight, before = sight, len(self.effects.asked)
        await self.guard.look_once()
        return self.effects.asked[before:]


@pytest.fixture
def watching() -> Watching:
    return Watching()


async def test_things_give_way_in_their_order(watching: Watching) -> None:
    assert await watching.see(80) == []
    assert await watching.see(30) == []
    assert watching.guard.level_of(GPU) is Level.WAIT
    assert await watching.see(30) == [("rest", GPU)]
    assert await watching.see(30) == [("rest", GPU), ("spill", GPU)]
    assert await watching.see(30) == [("rest", GPU), ("leave", GPU, 70)]
    assert await watching.see(60) == [("rest", GPU), ("leave", GPU, 40)]
    assert await watching.see(80) == []
    assert watching.guard.level_of(GPU) is Level.CALM


async def test_new_work_waits_and_goes_on(watching: Watching) -> None:
    await watching.see(30)
    waiting = asyncio.create_task(watching.gate.passed(GPU, waits=True))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await watching.gate.passed("cuda:0", waits=True)
    await watching.see(90)
    await waiting


async def test_who_waits_too_long_is_told_the_numbers(watching: Watching) -> None:
    await watching.see(30)
    words = "cuda:1 is short of memory: 30 MiB are free of the 100 MiB that memory_margin_mib keeps"
    with pytest.raises(DeviceShort, match=words):
        await watching.gate.passed(GPU, waits=True)
    with pytest.raises(DeviceShort, match=r"^server busy, please try again"):
        await watching.gate.passed(GPU, waits=False)


async def test_each_time_is_told_once(watching: Watching, caplog: pytest.LogCaptureFixture) -> None:
    for free in (30, 30, 30, 90, 30):
        await watching.see(free)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert len(watching.faults.recent()) == 2
    assert watching.faults.recent()[0].where == GPU


async def test_a_device_that_nobody_can_read_or_that_is_empty_is_not_short(watching: Watching) -> None:
    await watching.see(30)
    await watching.see(None)
    assert watching.guard.level_of(GPU) is Level.CALM
    await watching.see(30)
    await watching.see_all(Sight({}, {}))
    await watching.gate.passed(GPU, waits=False)


async def test_work_for_a_lost_card_is_refused_at_once_until_it_is_back(watching: Watching) -> None:
    watching.gate.patience_s = 3600
    lost = Sight({GPU: Watched(None, 100 * MIB, "GPU is lost")}, {})
    await watching.see(30)
    await watching.see_all(lost)
    with pytest.raises(DeviceShort, match="cuda:1 cannot be used: GPU is lost"):
        await watching.gate.passed(GPU, waits=True)
    assert watching.guard.watched() == lost.devices
    # It comes back as short as it was.
    await watching.see(30)
    with pytest.raises(DeviceShort, match="cuda:1 is short of memory"):
        await watching.gate.passed(GPU, waits=False)
    await watching.see(90)
    await watching.gate.passed(GPU, waits=False)


async def test_faults_of_cards_come_and_go(watching: Watching, caplog: pytest.LogCaptureFixture) -> None:
    lost = Sight({}, {"GPU 1 (GTX 1050)": "GPU is lost"})
    for sight in (lost, lost, Sight({}, {})):
        await watching.see_all(sight)
    assert [fault.text for fault in watching.faults.recent()] == ["GPU is lost"]
    assert caplog.messages == ["GPU 1 (GTX 1050): GPU is lost", "GPU 1 (GTX 1050) works again"]


async def test_a_look_that_breaks_does_not_end_the_guard(caplog: pytest.LogCaptureFixture) -> None:
    looks = []

    async def look() -> Sight:
        looks.append(1)
        raise RuntimeError("a bug")

    guard = Guard(look, Gate(), Recorded(), Faults())
    guard.start()
    await asyncio.sleep(0.01)
    assert looks == [1]
    assert "looks again" in caplog.text
    await guard.close()
