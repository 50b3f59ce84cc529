"""What tests of remote models share."""

from collections.abc import Iterator

import pytest

from tests.remote.scripted import Scripted, scripted


@pytest.fixture
def far() -> Iterator[Scripted]:
    """Another server."""
    with scripted() as server:
        yield server
