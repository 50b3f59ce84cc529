"""Sharing out layers, and looking whether they fit: pure."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.gguf.header import GgufHeader
from server.engine.gguf.reader import read_header
from server.gpu.compute import Shape
from server.gpu.plan import plan_layers, plan_memory, sum_of
from server.gpu.split import Part, Place, refusal_of_split, shortage, split
from tests.conftest import EMBEDDED

MIB = 2**20
SHAPE = Shape(context_tokens=8192, batch_tokens=512, output_tokens=71, sequences=20)
LAYERS = 31


@pytest.fixture(scope="module")
def header(embedded_model: Path) -> GgufHeader:
    return read_header(embedded_model)


def far(name: str, free_mib: float | None, share: float | None = None, margin_mib: int = 0) -> Place:
    free_bytes = None if free_mib is None else int(free_mib * MIB)
    return Place(name, free_bytes, margin_mib * MIB, on_gpu=None, share=share)


def here(free_mib: float | None, share: float | None = None) -> Place:
    return Place("cpu", None if free_mib is None else int(free_mib * MIB), 0, False, share, is_host=True)


def layers(parts: tuple[Part, ...]) -> list[int]:
    return [part.layers for part in parts]


def test_equal_rooms_get_equal_bytes_and_the_output_weighs(header: GgufHeader) -> None:
    parts = split(header, SHAPE, [far("a", 4000), far("b", 4000)])
    assert sum(layers(parts)) == LAYERS
    one, other = (part.plan.weights_bytes + part.plan.kv_bytes for part in parts)
    assert abs(one - other) < 30 * MIB, "no more than the largest layer apart"
    assert parts[0].layers > parts[1].layers


def test_the_settings_shares_count_before_what_is_free(header: GgufHeader) -> None:
    parts = split(header, SHAPE, [here(4000, 0), far("a", 4000, 1), far("b", 4000, 3)])
    assert parts[0].layers == 0
    assert parts[0].plan.kv_bytes == 0
    assert parts[0].plan.output_bytes > 0, "tokens still go in and come out here"
    assert parts[2].layers > 2 * parts[1].layers


def test_where_the_proportion_does_not_fit_each_takes_what_it_can(header: GgufHeader) -> None:
    whole = plan_memory(header, SHAPE, margin_bytes=0).total_bytes / MIB
    small = far("small", whole / 3)
    parts = split(header, SHAPE, [small, far("large", None)])
    assert shortage(parts) is None
    assert 0 < parts[0].layers < parts[1].layers


def test_what_fits_nowhere_is_refused_with_the_numbers_of_each(header: GgufHeader) -> None:
    parts = split(header, SHAPE, [here(60), far("rpc://b:1", 70, margin_mib=10)])
    worst = shortage(parts)
    assert worst is not None
    text = refusal_of_split(parts, "generator")
    assert text.startswith("does not fit its devices: cpu needs ")
    assert "60 MiB are free, rpc://b:1 needs " in text
    assert (
        "margin 10) and 70 MiB are free; lower generator.context, add a device to generator.devices" in text
    )


def test_a_margin_stays_free_on_each_device(header: GgufHeader) -> None:
    without = split(header, SHAPE, [far("a", 400), far("b", 400)])
    kept = split(header, SHAPE, [far("a", 400, margin_mib=200), far("b", 400)])
    assert kept[0].layers < without[0].layers
    assert shortage(kept) is None


def test_all_parts_together_are_the_whole_model(header: GgufHeader) -> None:
    pieces = [range(0, 7), range(7, 8), range(8, LAYERS)]
    parts = sum_of(plan_layers(header, SHAPE, piece, margin_bytes=0, on_gpu=True) for piece in pieces)
    whole = plan_memory(header, SHAPE, margin_bytes=0)
    assert parts.weights_bytes == whole.weights_bytes
    assert whole.kv_bytes <= parts.kv_bytes < whole.kv_bytes + 3


ROOMS = st.lists(st.one_of(st.none(), st.floats(0, 3000)), min_size=1, max_size=5)


@given(ROOMS)
def test_every_layer_has_one_place(rooms: list[float | None]) -> None:
    header = read_header(EMBEDDED)
    parts = split(header, SHAPE, [far(str(number), room) for number, room in enumerate(rooms)])
    assert sum(layers(parts)) == LAYERS
    assert min(layers(parts)) >= 0
    assert len(parts) == len(rooms)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4).filter(any))
def test_who_has_no_share_has_no_layer(shares: list[int]) -> None:
    header = read_header(EMBEDDED)
    parts = split(header, SHAPE, [far(str(number), 4000, share) for number, share in enumerate(shares)])
    assert sum(layers(parts)) == LAYERS
    assert all(part.layers == 0 for part, share in zip(parts, shares, strict=True) if share == 0)
