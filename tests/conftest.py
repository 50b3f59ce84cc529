"""What all tests share: the embedded model, and one real server on it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

from server.chat.template import CHATML
from tests.api.workshop import Workshop, open_workshop
from tests.engine.gguf_files import with_chat_template
from tests.running import PROJECT, RunningServer, embedded_config, serving

# A machine that builds something else meanwhile makes single examples slow, not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

QWEN = PROJECT / "tests" / "chat" / "templates" / "Qwen-Qwen2.5-7B-Instruct.jinja"
THINKING = CHATML + "{% if enable_thinking %}<think>\n{% endif %}"
EMBEDDED = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """SmolLM2-135M-Instruct, which ``make test`` puts in place."""
    if not EMBEDDED.exists():
        pytest.fail(f"{EMBEDDED} is missing: run the tests with `make test`")
    return EMBEDDED


@pytest.fixture(scope="session")
def server(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The embedded model as generator and helper, with the default thresholds."""
    with serving(tmp_path_factory.mktemp("server"), embedded_config(embedded_model)) as running:
        yield running


@pytest.fixture(scope="session")
def skilled_server(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The embedded model with two other chat templates: as generator, Qwen's, which knows tools; as helper,
    one that opens the thinking itself, so that all of an answer is thinking."""
    folder = tmp_path_factory.mktemp("skilled")
    tools = with_chat_template(embedded_model, folder / "tools.gguf", QWEN.read_text())
    thinking = with_chat_template(embedded_model, folder / "thinking.gguf", THINKING)
    with serving(folder, embedded_config(tools, helper=thinking)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    """One client for all tests of a module, for a new one costs more than its request. A module that has a
    ``server`` of its own talks to that one."""
    with server.client() as connected:
        yield connected


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
