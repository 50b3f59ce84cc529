"""The table of models/README.md is what the service would count, of models as they really are."""

import importlib.util
import sys
from types import ModuleType

import pytest

from server.catalogue.known import known_models
from server.config import Settings
from tests.running import PROJECT

MIB = 2**20
TEXTS_BYTES = 8_000_000
"""Vocabulary and merges in the header of a Qwen file are a little less."""


def load() -> ModuleType:
    """scripts/ is no package: the file is read as a module of its own."""
    spec = importlib.util.spec_from_file_location("memory_table", PROJECT / "scripts" / "memory_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_table"] = module
    spec.loader.exec_module(module)
    return module


memory_table = load()


def test_the_page_shows_what_is_counted_now() -> None:
    page = memory_table.README.read_text()
    assert memory_table.renewed(page) == page, "make it anew: python scripts/memory_table.py"


def test_a_page_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="the page lacks <!-- scripts/memory_table"):
        memory_table.renewed("# models/\n")


@pytest.mark.parametrize("role", ["generator", "helper"])
def test_the_headers_are_those_of_the_files(role: str) -> None:
    """The weights fill the file that the hub has, but for the texts of its header."""
    [known] = [model for model in known_models() if model.role == role]
    shape = memory_table.GENERATOR if role == "generator" else memory_table.HELPER
    assert known.size_bytes is not None
    assert 0 < known.size_bytes - shape.header().weights_bytes < TEXTS_BYTES


@pytest.mark.parametrize(
    ("shape", "kv_type", "bytes_per_token"),
    [
        # layers * KV heads * head width * (key and value) * bytes; q8_0 has 34 bytes for 32 numbers.
        ("GENERATOR", "f16", 28 * 4 * 128 * 2 * 2),
        ("GENERATOR", "q8_0", 28 * 4 * 128 * 2 * 34 // 32),
        ("HELPER", "f16", 28 * 8 * 128 * 2 * 2),
        ("HELPER", "q8_0", 28 * 8 * 128 * 2 * 34 // 32),
    ],
)
def test_a_token_of_context(shape: str, kv_type: str, bytes_per_token: int) -> None:
    assert getattr(memory_table, shape).header().kv_bytes_per_token(kv_type) == bytes_per_token


def test_both_defaults_stand_there_and_fit() -> None:
    defaults = [case for case in memory_table.cases(Settings()) if case.is_default]
    assert [case.shape for case in defaults] == [memory_table.GENERATOR, memory_table.HELPER]
    for case in defaults:
        total_mib = case.plan().total_bytes // MIB
        assert memory_table.verdict(total_mib, case.shape.card_mib) == "yes"


@pytest.mark.parametrize(
    ("total_mib", "words"), [(1848, "yes"), (1849, "**hardly**"), (2048, "**hardly**"), (2049, "**no**")]
)
def test_what_fits(total_mib: int, words: str) -> None:
    assert memory_table.verdict(total_mib, 2048) == words
