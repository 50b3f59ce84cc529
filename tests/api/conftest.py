"""After every test here the server goes on, and its log has no traceback."""

from collections.abc import Iterator

import httpx
import pytest

from tests.running import RunningServer


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only for tests that use the shared server."""
    if "server" not in request.fixturenames:
        yield
        return
    server: RunningServer = request.getfixturevalue("server")
    client: httpx.Client = request.getfixturevalue("client")
    before = len(server.log)
    yield
    assert client.get("/api/version").status_code == 200
    harm = [line for line in server.log[before:] if "Traceback" in line or " ERROR " in line]
    assert harm == []
