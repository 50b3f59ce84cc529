"""The same with llama.cpp's own ggml-rpc-server: GGML_RPC_SERVER names one, else it is built first."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.build_rpc_server import built_rpc_server
from server.engine.engine import Engine
from server.engine.llamacpp.library import Library
from server.engine.spec import EngineSpec
from tests.engine.comparing import agree_throughout, first_difference
from tests.engine.test_exactness import PROMPTS
from tests.rpc.hosts import Host, hosts
from tests.rpc.test_engine import over, texts
from tests.rpc.test_service import BIG, SMALL, Answer, Machine, ask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two() -> Iterator[list[Host]]:
    given = os.environ.get("GGML_RPC_SERVER")
    with hosts(2, Path(given) if given else built_rpc_server()) as started:
        yield started


def test_the_greedy_text_is_that_of_one_machine(embedded_model: Path, two: list[Host]) -> None:
    library, answers = Library(), []
    for shares in ((), over(two)):
        engine = Engine.load(
            library, EngineSpec(embedded_model, "CPU", 2048, threads=1, draft_tokens=0, shares=tuple(shares))
        )
        answers.append(texts(engine, PROMPTS[::3]))
        engine.close()
    pairs = list(zip(*answers, strict=True))
    assert [first_difference(*pair) for pair in pairs] == [None] * len(pairs)
    assert sum(agree_throughout(*pair) for pair in pairs) >= len(pairs) - 2, "ties are rare"


def test_a_loss_is_reported_and_made_good(tmp_path: Path, embedded_model: Path, two: list[Host]) -> None:
    machine = Machine(tmp_path, embedded_model, two, device_shares=[0, 1, 1])
    try:
        service = machine.start()
        split, local = (ask(service, model).json()["message"]["content"] for model in (BIG, SMALL))
        assert split == local
        answer = Answer(service)
        two[0].kill()
        assert service.end() == 69
        answer.end()
        assert f"{two[0].device} is lost" in service.log[-1]
        two[0].start()
        again = machine.start()
        assert ask(again, BIG).json()["message"]["content"] == local
        assert again.logged("the service ended while")
    finally:
        for server in machine.running:
            server.kill()
