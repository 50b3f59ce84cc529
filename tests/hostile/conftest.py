"""After every test here the server goes on, and its log has no traceback; and a server that wants keys."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.tiny_models import write_llama
from tests.hostile.asking import raw
from tests.running import RunningServer, embedded_config, serving

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
USER, ADMIN, FRUGAL = "user-key-0123456789", "admin-key-0123456789", "frugal-key-0123456789"


def keys_toml() -> str:
    """A key by its hash, one in clear, and one with limits of its own."""
    return f"""
[laptop]
key = "sha256:{hashlib.sha256(USER.encode()).hexdigest()}"

[me]
key = "{ADMIN}"
rights = ["use", "admin"]

[frugal]
key = "{FRUGAL}"
body_mib = 1
requests = 1
answer_tokens = 3
"""


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that wants keys, with a tiny model."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "models").mkdir()
    keys = folder / "keys.toml"
    keys.write_text(keys_toml())
    keys.chmod(0o600)
    model = write_llama(folder / "tiny.gguf")
    config = f'keys_file = "{keys.name}"\n[limits]\nbody_mib = 2\n' + embedded_config(
        model, generator={"name": "tiny:1b", "context": 1024, "memory_margin_mib": 16}
    )
    with serving(folder, config) as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """For whichever server a test uses."""
    used = [request.getfixturevalue(name) for name in ("server", "guarded") if name in request.fixturenames]
    before = [len(server.log) for server in used]
    yield
    for server, length in zip(used, before, strict=True):
        assert b" 200 " in raw(server, HEALTH)[:20]
        harm = [line for line in server.log[length:] if "Traceback" in line or " ERROR " in line]
        assert harm == []


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file as it should be."""
    file = tmp_path / "keys.toml"
    file.write_text(keys_toml())
    file.chmod(0o600)
    return file
