"""Clients for the servers that these tests share."""

from collections.abc import Iterator

import httpx
import pytest

from tests.running import RunningServer


@pytest.fixture(scope="session")
def skilled(skilled_server: RunningServer) -> Iterator[httpx.Client]:
    """A client for the models that know tools and thinking."""
    with skilled_server.client() as connected:
        yield connected
