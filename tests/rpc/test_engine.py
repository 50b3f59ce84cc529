"""A model split over two rpc servers says what it says on one machine. Real servers, real model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.tiny_models import write_bert, write_gemma3, write_lfm2, write_mamba, write_qwen3
from server.engine import runner
from server.engine.embeddings import Embedder
from server.engine.engine import Engine
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.library import Library
from server.engine.rpc import Wires
from server.engine.rpc import ask as ask_server
from server.engine.spec import EngineSpec, Share
from tests.api.asking import eventually
from tests.engine.comparing import agree_throughout, first_difference
from tests.engine.listening import Listener, ask, chat
from tests.engine.test_embeddings import ROUNDING, TEXTS
from tests.engine.test_exactness import PROMPTS
from tests.rpc.hosts import Host, hosts

LAYERS = 31
SOME = PROMPTS[::5]
WISHES: dict[str, Any] = {"context_tokens": 2048, "threads": 1, "draft_tokens": 0, "batch_tokens": 128}


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def two() -> Iterator[list[Host]]:
    with hosts(2) as started:
        yield started


Load = Callable[..., Engine]


@pytest.fixture
def load(library: Library, embedded_model: Path) -> Iterator[Load]:
    loaded: list[Engine] = []

    def with_shares(*shares: Share, **settings: object) -> Engine:
        wanted = {**WISHES, **settings}
        loaded.append(Engine.load(library, EngineSpec(embedded_model, "CPU", shares=shares, **wanted)))
        return loaded[-1]

    yield with_shares
    for engine in loaded:
        engine.close()


def over(two: list[Host], *, local: int = 0) -> list[Share]:
    """Both servers, and so many layers here."""
    first = (LAYERS - local) // 2
    shares = [
        Share(host.endpoint, layers, 0)
        for host, layers in zip(two, (first, LAYERS - local - first), strict=True)
    ]
    return [Share("CPU", local), *shares]


def texts(engine: Engine, prompts: list[str]) -> list[Listener]:
    return [ask(engine, prompt, 12, alternatives=8).wait() for prompt in prompts]


@pytest.fixture(scope="module")
def here(library: Library, embedded_model: Path) -> list[Listener]:
    """What the model says when all of it is on this machine."""
    engine = Engine.load(library, EngineSpec(embedded_model, "CPU", **WISHES))
    answers = texts(engine, SOME)
    engine.close()
    return answers


@pytest.mark.parametrize("local", [0, 10])
def test_the_greedy_text_is_that_of_one_machine(
    load: Load, two: list[Host], here: list[Listener], local: int
) -> None:
    pairs = list(zip(here, texts(load(*over(two, local=local)), SOME), strict=True))
    assert [first_difference(*pair) for pair in pairs] == [None] * len(pairs)
    assert sum(agree_throughout(*pair) for pair in pairs) >= len(pairs) - 1, "ties are rare"


def test_each_server_has_its_part(load: Load, two: list[Host]) -> None:
    load(*over(two))
    wires = [Wires("127.0.0.1", host.port) for host in two]
    assert [len(found) for found in wires] == [1, 1]
    assert [found.broken() for found in wires] == [None, None]
    for found in wires:
        found.close()


def test_a_server_is_free_again_once_the_model_is_gone(load: Load, two: list[Host]) -> None:
    load(*over(two)).close()
    for host in two:
        assert ask_server(host.device, "127.0.0.1", host.port)[0].free_bytes > 2**20


def test_a_conversation_that_left_and_came_back_goes_on_alike(load: Load, two: list[Host]) -> None:
    engine = load(*over(two, local=5), host_cache_bytes=2**28)
    prompt = chat("Tell me of the harbour. " * 12)
    first = ask(engine, prompt, 12, alternatives=8).wait()
    engine.spill()
    assert eventually(lambda: engine.state.kept_tokens == 0 and engine.tiers.ram_bytes > 0)
    restored = ask(engine, prompt, 12, alternatives=8).wait()
    assert engine.figures.restored_tokens > 50, "nothing was tested"
    assert first_difference(first, restored) is None


def test_a_conversation_comes_back_from_disk(load: Load, two: list[Host], tmp_path: Path) -> None:
    kept = {"cache_dir": tmp_path, "disk_cache_bytes": 2**30, "digest": "d"}
    prompt = chat("Tell me of the harbour. " * 60)
    one = load(*over(two), **kept)
    length = len(one.model.tokenize(prompt, add_special=True))
    first = ask(one, prompt, 12, alternatives=8, lasting_tokens=length - 5).wait()
    one.close()
    other = load(*over(two), **kept)
    second = ask(other, prompt, 12, alternatives=8, lasting_tokens=length - 5).wait()
    assert other.figures.restored_tokens > 256
    assert first_difference(first, second) is None


def test_guesses_are_checked_over_the_wire(
    load: Load, two: list[Host], here: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "best_length", lambda most, *_: most if most > 1 else 0)
    guessing = load(*over(two), draft_tokens=16)
    pairs = list(zip(here[:4], texts(guessing, SOME[:4]), strict=True))
    assert guessing.figures.accepted_tokens > 0
    assert [first_difference(*pair) for pair in pairs] == [None] * 4


def test_several_answers_and_one_that_is_cancelled(load: Load, two: list[Host]) -> None:
    engine = load(*over(two, local=10))
    cancelled = ask(engine, chat("Count to a thousand."), 500)
    others = [ask(engine, prompt, 8) for prompt in SOME[:3]]
    assert cancelled.begun.wait(60)
    assert cancelled.job is not None
    engine.cancel(cancelled.job)
    assert all(other.finished().tokens for other in others)
    assert cancelled.wait().end is not None


@pytest.mark.parametrize("write", [write_bert, write_qwen3], ids=["encoder", "decoder"])
def test_an_embedder_is_split_as_well(
    library: Library, two: list[Host], tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    file = write(tmp_path / "tiny.gguf")
    blocks = read_header(file).block_count or 0
    shares = (Share(two[0].endpoint, 1, 0), Share(two[1].endpoint, blocks, 0))
    vectors = [
        vectors_of_all(library, EngineSpec(file, "CPU", 256, batch_tokens=64, shares=given))
        for given in ((), shares)
    ]
    assert float(np.abs(vectors[0] - vectors[1]).max()) < ROUNDING


@pytest.mark.parametrize("write", [write_mamba, write_lfm2, write_gemma3], ids=["mamba", "lfm2", "gemma3"])
def test_models_with_states_and_windows_say_the_same(
    library: Library, two: list[Host], tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    file = write(tmp_path / "tiny.gguf")
    blocks = read_header(file).block_count or 0
    answers = []
    for shares in ((), (Share(two[0].endpoint, 1, 0), Share(two[1].endpoint, blocks, 0))):
        spec = EngineSpec(
            file,
            "CPU",
            256,
            threads=1,
            batch_tokens=128,
            draft_tokens=0,
            host_cache_bytes=2**26,
            shares=shares,
        )
        engine = Engine.load(library, spec)
        try:
            answers += [
                ask(engine, text, 12, alternatives=8).wait() for text in ("the sea", "the sea is calm")
            ]
            engine.spill()
            answers.append(ask(engine, "the sea is calm, and", 12, alternatives=8).wait())
        finally:
            engine.close()
    assert [first_difference(*pair) for pair in zip(answers[:3], answers[3:], strict=True)] == [None] * 3


def vectors_of_all(library: Library, spec: EngineSpec) -> "np.ndarray[Any, Any]":
    embedder = Embedder.load(library, spec)
    try:
        texts = [embedder.model.tokenize(text, add_special=True) for text in TEXTS]
        return np.array(embedder.embed(texts).result(60))
    finally:
        embedder.close()
