"""The same with llama.cpp's own ggml-rpc-server, built from the sources of the binding."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.build_rpc_server import built_rpc_server
from tests.rpc.hosts import Host, hosts
from tests.rpc.test_service import BIG, SMALL, Answer, Machine, ask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two() -> Iterator[list[Host]]:
    with hosts(2, built_rpc_server()) as started:
        yield started


def test_one_model_over_two_of_them_answers_like_the_local_one_and_survives_a_loss(
    tmp_path: Path, embedded_model: Path, two: list[Host]
) -> None:
    machine = Machine(tmp_path, embedded_model, two, device_shares=[0, 1, 1])
    try:
        service = machine.start()
        split, local = (ask(service, model, tokens=32).json()["message"]["content"] for model in (BIG, SMALL))
        assert split == local
        answer = Answer(service)
        two[0].kill()
        assert service.end() == 69
        answer.end()
        assert f"{two[0].device} is lost" in service.log[-1]
        two[0].start()
        assert ask(machine.start(), BIG, tokens=32).json()["message"]["content"] == local
    finally:
        for server in machine.running:
            server.kill()
