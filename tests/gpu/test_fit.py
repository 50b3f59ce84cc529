"""What is given up where a model does not fit: the real models' shapes on cards of many sizes."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from bench.real_shapes import CODER_7B, QWEN3_1_7B, write_real_shape
from server.engine.gguf.header import GgufHeader
from server.engine.gguf.reader import read_header
from server.gpu.compute import Shape
from server.gpu.fit import Tuning, changes, fitting_plan, ladders, least, safer_bytes
from server.gpu.plan import MemoryPlan, plan_memory

MIB = 2**20
WISHED = Tuning(draft=63, batch=512, kv_type="f16", context=32768, gpu_layers=-1)
HELPER = Tuning(draft=0, batch=512, kv_type="q8_0", context=4096, gpu_layers=-1)


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> GgufHeader:
    return read_header(write_real_shape(tmp_path_factory.mktemp("coder") / "7b.gguf", CODER_7B))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> GgufHeader:
    return read_header(write_real_shape(tmp_path_factory.mktemp("qwen3") / "1.7b.gguf", QWEN3_1_7B))


@pytest.fixture(scope="module")
def untied_qwen3(tmp_path_factory: pytest.TempPathFactory) -> GgufHeader:
    shape = replace(QWEN3_1_7B, tied=False)
    return read_header(write_real_shape(tmp_path_factory.mktemp("untied") / "1.7b.gguf", shape))


def need(header: GgufHeader, tuning: Tuning, slots: int = 8, margin_mib: int = 256) -> MemoryPlan:
    sequences = 2 * slots + 4
    shape = Shape(
        context_tokens=tuning.context,
        batch_tokens=tuning.batch,
        output_tokens=max(sequences, slots + tuning.draft),
        sequences=sequences,
        kv_type=tuning.kv_type,
        gpu_layers=tuning.gpu_layers,
    )
    return plan_memory(header, shape, margin_bytes=margin_mib * MIB)


def fit(
    header: GgufHeader,
    free_mib: int,
    wished: Tuning = WISHED,
    *,
    kept: tuple[str, ...] = (),
    spills: bool = False,
    flash_attention: bool = True,
    **sizes: int,
) -> Tuning | None:
    steps = ladders(header, wished, flash_attention=flash_attention, kept=kept, spills=spills)
    return fitting_plan(wished, steps, lambda tuning: need(header, tuning, **sizes), free_mib * MIB)


class Card(NamedTuple):
    free_mib: int
    given_up: dict[str, Any] | None


CODER_ON_CARDS = [
    Card(24_000, {}),
    Card(7900, {}),
    Card(6419, {}),
    Card(6400, {"batch": 256}),
    Card(6200, {"kv_type": "q8_0"}),
    Card(5579, {"kv_type": "q8_0"}),
    Card(5500, {"batch": 256, "kv_type": "q8_0"}),
    Card(5000, {"batch": 128, "kv_type": "q8_0", "context": 17664}),
    Card(4650, {"draft": 56, "batch": 128, "kv_type": "q8_0", "context": 6144}),
    Card(4500, None),
]
"""The generator's settings; a margin of 256 MiB."""

HELPER_ON_CARDS = [
    Card(7900, {}),
    Card(1900, {}),
    Card(1430, {}),
    Card(1400, {"batch": 256}),
    Card(1350, {"batch": 128, "context": 3584}),
    Card(1250, None),
]
"""The helper's settings; a margin of 64 MiB."""


@pytest.mark.parametrize("card", CODER_ON_CARDS)
def test_the_coder_on_cards_of_all_sizes(coder: GgufHeader, card: Card) -> None:
    expected = None if card.given_up is None else replace(WISHED, **card.given_up)
    assert fit(coder, card.free_mib) == expected


@pytest.mark.parametrize("card", HELPER_ON_CARDS)
def test_the_helper_on_cards_of_all_sizes(qwen3: GgufHeader, card: Card) -> None:
    expected = None if card.given_up is None else replace(HELPER, **card.given_up)
    assert fit(qwen3, card.free_mib, HELPER, slots=4, margin_mib=64) == expected


AFTER_CRASHES: list[tuple[str, list[dict[str, Any] | None]]] = [
    ("coder", [{"kv_type": "q8_0"}, {"batch": 128, "kv_type": "q8_0", "context": 25088}]),
    ("qwen3", [{"batch": 128, "context": 3328}, None]),
]
"""What is given up after one crash, and after another one with that."""


@pytest.mark.parametrize(("model", "expected"), AFTER_CRASHES)
def test_after_each_crash_more_is_given_up(
    model: str, expected: list[dict[str, Any] | None], request: pytest.FixtureRequest
) -> None:
    header: GgufHeader = request.getfixturevalue(model)
    wished, slots, margin_mib = (WISHED, 8, 256) if model == "coder" else (HELPER, 4, 64)
    planned: Tuning | None = wished
    for given_up in expected:
        assert planned is not None
        crashed = need(header, planned, slots, margin_mib)
        free_mib = safer_bytes(crashed.total_bytes) // MIB
        planned = fit(header, free_mib, wished, slots=slots, margin_mib=margin_mib)
        assert planned == (None if given_up is None else replace(wished, **given_up))


def test_an_embedding_that_is_not_the_output_stays_in_host_memory(
    qwen3: GgufHeader, untied_qwen3: GgufHeader
) -> None:
    assert untied_qwen3.weights_bytes > qwen3.weights_bytes + 150 * MIB
    assert need(untied_qwen3, HELPER) == need(qwen3, HELPER)


@pytest.mark.parametrize("free_mib", range(4540, 6440, 61))
def test_nothing_is_given_up_in_vain_nor_for_what_is_missed_less(coder: GgufHeader, free_mib: int) -> None:
    steps = ladders(coder, WISHED, flash_attention=True, kept=(), spills=False)
    found = fit(coder, free_mib)
    assert found is not None

    assert need(coder, found).total_bytes <= free_mib * MIB
    for change in changes(WISHED, found):
        ladder = list(steps[change.setting])
        better = ladder[ladder.index(change.planned) + 1]
        raised = replace(found, **{change.setting: better})
        assert need(coder, raised).total_bytes > free_mib * MIB
        missed_less = list(steps)[: list(steps).index(change.setting)]
        with_less = replace(raised, **{name: steps[name][0] for name in missed_less})
        assert need(coder, with_less).total_bytes > free_mib * MIB


def test_what_the_user_has_set_stays(coder: GgufHeader) -> None:
    found = fit(coder, 5000, kept=("batch", "kv_type"))
    assert found is not None
    assert (found.batch, found.kv_type) == (512, "f16")
    assert 2048 <= found.context < 17664

    assert fit(coder, 5000, kept=("context", "kv_type")) is None
    assert fit(coder, 6400, kept=("draft", "batch", "kv_type", "context")) is None


def test_layers_go_to_the_cpu_only_where_that_is_allowed_and_only_the_least(coder: GgufHeader) -> None:
    assert fit(coder, 4000) is None
    found = fit(coder, 4000, spills=True)
    assert found is not None
    assert (found.gpu_layers, found.kv_type) == (24, "q8_0")
    more = replace(least(found, {"draft": (0,), "batch": (128,), "context": (2048,)}), gpu_layers=25)
    assert need(coder, more).total_bytes > 4000 * MIB

    assert fit(coder, 5000, spills=True) == fit(coder, 5000)


def test_some_layers_are_as_many_as_were_wished_for_at_most(coder: GgufHeader) -> None:
    found = fit(coder, 1500, replace(WISHED, gpu_layers=10), spills=True)
    assert found is not None
    assert found.gpu_layers < 10


def test_a_quantised_cache_needs_flash_attention_and_whole_blocks(coder: GgufHeader) -> None:
    found = fit(coder, 6200, flash_attention=False, kept=("gpu_layers",))
    assert found is not None
    assert found.kv_type == "f16"
    assert found.context < 32768

    odd = {f"qwen2.attention.{name}_length": 80 for name in ("key", "value")}
    narrow = replace(coder, metadata={**coder.metadata, **odd})
    kept = ladders(narrow, WISHED, flash_attention=True, kept=(), spills=False)
    assert "kv_type" not in kept


@pytest.mark.parametrize(
    ("wished", "name", "values"),
    [
        ({"batch": 128}, "batch", []),
        ({"batch": 300}, "batch", [150, 300]),
        ({"batch": 4096}, "batch", [128, 256, 512, 1024, 2048, 4096]),
        ({"batch": 200}, "batch", []),
        ({"context": 1024}, "context", []),
        ({"context": 2048}, "context", []),
        ({"context": 2400}, "context", [2048, 2304, 2400]),
        ({"draft": 2}, "draft", [0, 1, 2]),
        ({"draft": 0}, "draft", []),
        ({"kv_type": "q8_0"}, "kv_type", []),
    ],
)
def test_the_ladders(coder: GgufHeader, wished: dict[str, Any], name: str, values: list[Any]) -> None:
    steps = ladders(coder, replace(WISHED, **wished), flash_attention=True, kept=(), spills=False)
    assert list(steps.get(name, ())) == values


def test_changes_stand_in_the_order_in_which_things_are_given_up() -> None:
    found = changes(WISHED, Tuning(draft=0, batch=512, kv_type="q8_0", context=2048, gpu_layers=-1))

    assert [(change.setting, change.wished, change.planned) for change in found] == [
        ("draft", 63, 0),
        ("kv_type", "f16", "q8_0"),
        ("context", 32768, 2048),
    ]
