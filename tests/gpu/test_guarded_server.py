"""The real server on two cards that are watched through the real bindings: what others take, and what breaks.

The cards are CUDA's in name only (see fake_cuda.py): models run on the CPU, and count as memory of the cards.
"""

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from prometheus_client.parser import text_string_to_metric_families

from tests.api.asking import eventually
from tests.api.test_queue import FOR_LONG
from tests.gpu.fake_nvml import GPU_IS_LOST, NAMES, PCI_BUS_IDS, TOTAL_MIB, UNKNOWN_TO_THE_BINDINGS, FakeNvml
from tests.running import RunningServer, embedded_config, serving

MIB = 2**20
GENERATOR, HELPER = "smollm2:135m", "smollm2:135m-helper"
OTHERS_MIB = (342, 5)
"""What the fake says that others have of each card."""


class Machine:
    """The server, its client, and the cards."""

    def __init__(self, server: RunningServer, client: httpx.Client, cards: FakeNvml) -> None:
        self.server, self.client, self.cards = server, client, cards

    def health(self) -> dict[str, Any]:
        told: dict[str, Any] = self.client.get("/health/gpu").json()
        return told

    def card(self, number: int) -> dict[str, Any]:
        card: dict[str, Any] = self.health()["devices"][number]
        return card

    def levels(self) -> dict[str, str]:
        return {device: margin["level"] for device, margin in self.health()["guard"].items()}

    def ask(self, model: str, tokens: int = 2, **keys: object) -> httpx.Response:
        body = {"model": model, "prompt": "1, 2, 3,", "raw": True, "stream": False, **keys}
        return self.client.post("/api/generate", json={**body, "options": {"num_predict": tokens}})

    def others_leave(self, number: int, free_mib: int) -> None:
        """Other programs take all of a card but so much."""
        own_bytes = self.card(number)["memory_own_bytes"]
        self.cards.order(f"used {number} {TOTAL_MIB[number] - own_bytes // MIB - free_mib}")

    def has_faults(self, words: str) -> bool:
        return any(words in fault["text"] for fault in self.health()["recent_faults"])

    @contextmanager
    def generating(self, model: str) -> Iterator[None]:
        """A long answer is under way."""
        with self.server.client() as client:
            asked = client.build_request("POST", "/v1/completions", json={**FOR_LONG, "model": model})
            answer = client.send(asked, stream=True)
            pieces = (line for line in answer.iter_lines() if line)
            assert '"text"' in next(pieces)
            yield
            # It has gone on all the while.
            assert '"text"' in next(pieces)
            answer.close()


@pytest.fixture(scope="module")
def started(
    fake_nvml_folder: Path, embedded_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("guarded")
    cards = FakeNvml(fake_nvml_folder, folder / "fake_nvml.txt")
    small = {"batch": 128, "threads": 1, "context": 4096}
    config = embedded_config(
        embedded_model,
        generator={"device": "cuda:0", "memory_margin_mib": 256, **small},
        helper={"path": str(embedded_model), "device": "cuda:1", "memory_margin_mib": 64, **small},
    )
    with (
        serving(folder, config, cards.environment(), module="tests.gpu.fake_cuda") as server,
        server.client() as client,
    ):
        yield Machine(server, client, cards)


@pytest.fixture
def machine(started: Machine) -> Machine:
    """All is well, and both models are loaded."""
    started.cards.order()
    assert eventually(lambda: [card["fault"] for card in started.health()["devices"]] == [None, None])
    assert eventually(lambda: started.ask(HELPER).status_code == started.ask(GENERATOR).status_code == 200)
    assert eventually(lambda: started.levels() == {"cuda:0": "calm", "cuda:1": "calm"})
    return started


def test_each_card_is_told_of(machine: Machine) -> None:
    machine.cards.order("used 0 1000", f"process 0 {os.getpid()} 500", "reasons 0 4")
    assert eventually(lambda: len(machine.card(0)["processes"]) == 2)
    health = machine.health()

    assert (health["available"], health["reason"]) == (True, None)
    big, small = health["devices"]
    assert (big["name"], small["name"]) == NAMES
    assert (big["pci_bus_id"], small["pci_bus_id"]) == PCI_BUS_IDS
    assert (big["device"], small["device"]) == ("cuda:0", "cuda:1")
    assert (big["models"], small["models"]) == ([GENERATOR], [HELPER])
    theirs, ours = big["processes"]
    assert (theirs["pid"], theirs["ours"], theirs["memory_bytes"]) == (os.getpid(), False, 500 * MIB)
    assert (ours["ours"], ours["memory_bytes"], ours["name"]) == (True, big["memory_own_bytes"], "python")
    assert big["memory_others_bytes"] == 1500 * MIB
    assert big["memory_used_bytes"] == big["memory_own_bytes"] + 1500 * MIB
    assert big["memory_free_bytes"] == big["memory_total_bytes"] - big["memory_used_bytes"]
    assert (big["power_w"], big["power_limit_w"], big["clock_max_mhz"]) == (38.25, 175.0, 2100)
    assert (big["clock_reasons"], small["clock_reasons"]) == (["power limit"], ["idle"])
    free_bytes = big["memory_free_bytes"]
    margin = {"level": "calm", "free_bytes": free_bytes, "margin_bytes": 256 * MIB, "fault": None}
    assert big["margin"] == health["guard"]["cuda:0"] == margin


def test_prometheus_is_told_the_same_of_each_card(machine: Machine) -> None:
    machine.cards.order("used 0 1000")
    assert eventually(lambda: machine.card(0)["memory_others_bytes"] == 1000 * MIB)
    card = machine.card(0)
    families = text_string_to_metric_families(machine.client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    told = {sample.name: sample for sample in samples if sample.labels.get("gpu") == "0"}
    for name in ("memory_total_bytes", "memory_used_bytes", "memory_own_bytes", "memory_others_bytes"):
        assert told[f"llm_optimizer_gpu_{name}"].value == card[name]
    assert told["llm_optimizer_gpu_power_watts"].value == card["power_w"]
    assert told["llm_optimizer_gpu_temperature_celsius"].value == card["temperature_c"]
    assert told["llm_optimizer_gpu_info"].labels["device"] == "cuda:0"
    margins = {
        sample.labels["device"]: sample.value
        for sample in samples
        if sample.name == "llm_optimizer_device_margin_bytes"
    }
    assert margins["cuda:0"] == machine.health()["guard"]["cuda:0"]["margin_bytes"]


def test_plans_stand_beside_what_is_taken(machine: Machine) -> None:
    health = machine.health()
    for card, model in zip(
        health["devices"], sorted(health["models"], key=lambda one: one["device"]), strict=True
    ):
        plan, told = card["plan"], model["plan"]
        parts = ("weights_bytes", "kv_bytes", "compute_bytes", "output_bytes", "scratch_bytes")
        assert plan["planned_bytes"] == told["device_bytes"] == sum(told[part] for part in parts)
        assert plan["actual_bytes"] == card["memory_own_bytes"]
        assert plan["difference_bytes"] == plan["actual_bytes"] - plan["planned_bytes"]
        # The fake leaves out the compute buffers.
        assert abs(plan["difference_bytes"]) < 64 * MIB


def test_what_is_answered_is_as_the_document_says(machine: Machine) -> None:
    schema = schemathesis.openapi.from_dict(machine.client.get("/openapi.json").json())
    for order in ("", f"fail * 1 {GPU_IS_LOST}", "cards 0"):
        machine.cards.order(order)
        time.sleep(0.3)
        for path in ("/health", "/health/ready", "/health/gpu"):
            schema[path]["GET"].validate_response(machine.client.get(path))


def test_new_work_waits_while_others_have_the_memory(machine: Machine) -> None:
    with machine.generating(GENERATOR):
        machine.others_leave(0, 100)
        assert eventually(lambda: machine.levels()["cuda:0"] == "leave")
        refused = machine.ask(GENERATOR)
        assert refused.status_code == 503
        words = "cuda:0 is short of memory: 100 MiB are free of the 256 MiB that memory_margin_mib keeps"
        assert words in refused.json()["error"]
        assert machine.has_faults(words)
        assert machine.card(0)["margin"]["free_bytes"] == 100 * MIB
        # Who works stays, and the other card is not concerned.
        assert machine.card(0)["models"] == [GENERATOR]
        assert machine.ask(HELPER).status_code == 200

        waiting: list[int] = []
        thread = threading.Thread(target=lambda: waiting.append(machine.ask(GENERATOR).status_code))
        thread.start()
        machine.cards.order()
        thread.join(timeout=60)
        assert waiting == [200]
        assert machine.levels()["cuda:0"] == "calm"
    assert machine.server.logged("cuda:0: enough memory is free again")


def test_who_is_idle_leaves_and_comes_back_with_the_memory(machine: Machine) -> None:
    machine.others_leave(1, 20)
    assert eventually(lambda: machine.card(1)["models"] == [])
    assert eventually(
        lambda: bool(machine.server.logged(f"{HELPER} unloaded: its device is short of memory"))
    )
    # Its memory was verified to be free again.
    assert (machine.card(1)["memory_own_bytes"], machine.has_faults("came back")) == (0, False)

    machine.others_leave(1, 100)
    assert eventually(lambda: machine.card(1)["memory_free_bytes"] == 100 * MIB)
    refused = machine.ask(HELPER)
    assert refused.status_code >= 500
    assert "but 100 MiB are free" in refused.json()["error"]
    assert machine.ask(GENERATOR).status_code == 200

    machine.cards.order()
    assert eventually(lambda: machine.card(1)["memory_free_bytes"] == (TOTAL_MIB[1] - OTHERS_MIB[1]) * MIB)
    assert machine.ask(HELPER).status_code == 200
    assert machine.card(1)["models"] == [HELPER]


@pytest.mark.parametrize(
    ("order", "fault"),
    [(f"fail * 1 {GPU_IS_LOST}", "GPU is lost"), ("cards 1", "the card is no longer there")],
)
def test_a_card_that_is_lost_is_told_of_and_left_alone(machine: Machine, order: str, fault: str) -> None:
    machine.cards.order(order)
    assert eventually(lambda: machine.card(1)["fault"] == fault)
    card = machine.card(1)
    assert (card["name"], card["device"], card["models"]) == (NAMES[1], "cuda:1", [HELPER])
    assert (card["memory_free_bytes"], card["margin"]["fault"]) == (None, fault)
    assert machine.has_faults(fault)
    refused = machine.ask(HELPER)
    assert (refused.status_code, f"cuda:1 cannot be used: {fault}" in refused.json()["error"]) == (503, True)
    assert machine.ask(GENERATOR).status_code == 200

    machine.cards.order()
    assert eventually(lambda: machine.card(1)["fault"] is None)
    assert machine.ask(HELPER).status_code == 200
    assert machine.server.logged(f"GPU 1 ({NAMES[1]}) works again")


def test_a_driver_that_fails_is_told_of_and_both_models_answer(machine: Machine) -> None:
    machine.cards.order(f"fail nvmlDeviceGetCount * {UNKNOWN_TO_THE_BINDINGS}")
    assert eventually(lambda: not machine.health()["available"])
    health = machine.health()
    assert health["reason"] == "the NVIDIA driver fails: an error that only the driver knows"
    assert health["guard"]["cuda:0"]["free_bytes"] is None
    assert (health["recent_faults"][0]["where"], health["recent_faults"][0]["text"]) == (
        "NVIDIA driver",
        health["reason"],
    )
    assert [machine.ask(model).status_code for model in (GENERATOR, HELPER)] == [200, 200]


def test_a_slow_driver_holds_nobody_up(machine: Machine) -> None:
    machine.cards.order("delay 2000")
    time.sleep(0.2)
    with machine.generating(GENERATOR), machine.generating(HELPER):
        took_s = []
        for _ in range(40):
            began_s = time.monotonic()
            health = machine.health()
            took_s.append(time.monotonic() - began_s)
            time.sleep(0.02)
    print(f"median {statistics.median(took_s) * 1000:.1f} ms, most {max(took_s) * 1000:.1f} ms")
    assert len(health["devices"]) == 2
    assert statistics.median(took_s) < 0.05


def test_memory_that_does_not_come_back_is_told_of(machine: Machine) -> None:
    machine.cards.order("leaks 1")
    assert machine.ask(HELPER, keep_alive=0).status_code == 200
    assert eventually(lambda: machine.has_faults(" on CUDA1 came back; if that goes on, restart the service"))
    assert machine.card(1)["models"] == []
