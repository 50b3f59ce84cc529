"""What is planned for each device, against what llama.cpp takes there by its own word."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.memory import native_shape
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.library import Library
from server.engine.spec import Share
from server.gpu.compute import Shape
from server.gpu.split import Part, Place, split
from tests.rpc.hosts import Host, hosts

MIB = 2**20
SHAPE = Shape(context_tokens=4096, batch_tokens=512, output_tokens=71, sequences=20)
BUFFER = re.compile(r"(\S+) (model|KV|compute) buffer size = +([0-9.]+) MiB")


@pytest.fixture(scope="module")
def two() -> Iterator[list[Host]]:
    with hosts(2) as started:
        yield started


def planned(model: Path, two: list[Host], cpu: int) -> tuple[Part, ...]:
    places = [Place("cpu", None, 0, on_gpu=False, share=cpu, is_host=True)]
    places += [Place(host.device, None, 0, on_gpu=None, share=2) for host in two]
    return split(read_header(model), SHAPE, places)


def taken(library: Library, model: Path, shares: list[Share]) -> dict[str, dict[str, float]]:
    """MiB by device and kind."""
    with library.log.hearing() as lines:
        loaded = library.load_model(model, "CPU", 0, shares=shares)
        loaded.new_context(native_shape(SHAPE, on_gpu=True)).close()
        loaded.close()
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, kind, mib in BUFFER.findall("\n".join(lines)):
        found["cpu" if name.startswith("CPU") else name.partition("[")[2].rstrip("]")][kind] += float(mib)
    assert any("sched copies = 1" in line for line in lines), "each input is kept once"
    return found


@pytest.mark.parametrize("cpu", [0, 1])
def test_no_device_takes_more_than_planned_and_little_less(
    embedded_model: Path, two: list[Host], cpu: int
) -> None:
    parts = planned(embedded_model, two, cpu)
    names = {host.device: host.endpoint for host in two} | {"cpu": "CPU"}
    shares = [Share(names[part.device], part.layers, None if part.device == "cpu" else 0) for part in parts]
    found = taken(Library(), embedded_model, shares)
    for part in parts:
        real = found["cpu" if part.device == "cpu" else names[part.device]]
        if part.device == "cpu":
            # Mapped: from the first tensor in the file to the last, whatever lies between.
            real["model"] = part.plan.weights_bytes / MIB
        plan_mib = {
            "model": part.plan.weights_bytes / MIB,
            "KV": part.plan.kv_bytes / MIB,
            "compute": part.plan.compute_bytes / MIB,
        }
        assert all(real[kind] - 1 <= plan_mib[kind] for kind in plan_mib), (part.device, dict(real), plan_mib)
        assert sum(plan_mib.values()) <= 1.25 * sum(real.values()) + 8, (part.device, dict(real), plan_mib)
