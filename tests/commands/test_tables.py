"""Sizes and times in words."""

import datetime

import pytest

from server.commands.tables import ago, size

NOW = datetime.datetime(2026, 11, 28, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (98_362_432, "94 MiB"),
        (4_683_073_184, "4.4 GiB"),
        (50 * 2**30, "50 GiB"),
    ],
)
def test_sizes(size_bytes: int, words: str) -> None:
    assert size(size_bytes) == words


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-11-28T11:59:30Z", "30 seconds ago"),
        ("2026-11-28T09:59:59+00:00", "2 hours ago"),
        ("2026-11-28T13:05:00+01:00", "in 5 minutes"),
        ("2026-11-27T12:00:00Z", "1 day ago"),
        ("2318-01-01T00:00:00Z", "forever"),
    ],
)
def test_moments(moment: str, words: str) -> None:
    assert ago(moment, NOW) == words
