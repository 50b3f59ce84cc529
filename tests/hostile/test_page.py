"""The page about security names tests that there are, and the limits that hold."""

import re

import pytest

from server.api import connections, packed
from server.api.jsontext import DEEPEST, MOST_CONTAINERS
from server.chat import renderer, sandbox
from server.engine import gbnf
from tests.running import PROJECT

PAGE = (PROJECT / "docs" / "security.md").read_text()


def test_the_tests_that_it_names_are_there() -> None:
    named = re.findall(r"`([a-z_]+/test_[a-z_]+\.py)`", PAGE)
    assert len(named) > 8
    assert [name for name in named if not (PROJECT / "tests" / name).is_file()] == []


@pytest.mark.parametrize(
    "words",
    [
        f"{MOST_CONTAINERS:,}, and {DEEPEST} deep",
        f"| {packed.MOST_ENCODINGS}; a zstd",
        f"| {connections.MOST_HEADERS}, {connections.MOST_HEADER_BYTES // 1024} KiB in all, "
        f"within {connections.HEADERS_S:.0f} s",
        f"{connections.SILENT_S:.0f} s without a byte",
        f"after the first {connections.GRACE_S:.0f} s",
        f"| {connections.UNHEARD_S:.0f} s |",
        f"| {connections.MOST_CONNECTIONS:,}, or",
        f"| {sandbox.CPU_S} s of a processor, {sandbox.MEMORY_BYTES // 2**30} GiB",
        f"rests for {renderer.REST_S:.0f} s",
        f"| {gbnf.MOST_PARTS:,} parts, {gbnf.MOST_CHARS // 2**20} MiB",
    ],
)
def test_the_limits_are_those_that_hold(words: str) -> None:
    assert words in PAGE
