"""After every test here the server goes on, and its log has no traceback."""

from collections.abc import Iterator

import httpx
import pytest

from tests.api.workshop import Workshop, open_workshop
from tests.running import RunningServer


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """One client for all tests: they are many, and each new one costs more than its request."""
    with server.client() as connected:
        yield connected


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


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A server whose models come and go, beside a hub of its own."""
    with open_workshop(tmp_path_factory.mktemp("workshop")) as opened:
        yield opened


@pytest.fixture
def bench(workshop: Workshop) -> Iterator[Workshop]:
    """The same, with nothing left of the test before."""
    workshop.tidy_up()
    yield workshop
    harm = [line for line in workshop.server.log if "Traceback" in line]
    assert harm == []
