"""Embeddings of tiny models: an encoder, a decoder and a hybrid."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.tiny_models import write_bert, write_lfm2, write_llama, write_qwen3
from server.domain.errors import (
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    PromptTooLong,
    QueueFull,
    Unloaded,
)
from server.engine.embeddings import Embedder, packs
from server.engine.engine import Engine
from server.engine.llamacpp.context import DecodeResult
from server.engine.llamacpp.embedding_context import EmbeddingContext, Vector
from server.engine.llamacpp.library import Library
from server.engine.ownmemory import heap_now
from server.engine.spec import EngineSpec
from tests.engine.listening import ask

WAIT_S = 120
ROUNDING = 5e-3
"""Batches of another size round differently; vectors of different texts are twenty times as far apart."""

MODELS: dict[str, Callable[[Path], Path]] = {
    "encoder, mean": lambda path: write_bert(path, "mean", context_tokens=256),
    "encoder, cls": lambda path: write_bert(path, "cls", context_tokens=256),
    "decoder, last": lambda path: write_qwen3(path, "last"),
    "decoder, mean": lambda path: write_qwen3(path, "mean"),
    "hybrid, mean": lambda path: write_lfm2(path, "mean"),
}
TEXTS = ["The sea is calm.", "the sea is calm", "A letter came by night. " * 4, "?", "Olá, 世界!"]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module", params=MODELS)
def embedder(
    request: pytest.FixtureRequest, library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Embedder]:
    file = MODELS[request.param](tmp_path_factory.mktemp("embeddings") / "model.gguf")
    loaded = Embedder.load(library, EngineSpec(file, "CPU", 256, batch_tokens=64))
    yield loaded
    loaded.close()


@pytest.fixture
def own_embedder(library: Library, tmp_path: Path) -> Iterator[Embedder]:
    """An embedder that the test may break, with a queue of 2."""
    file = write_bert(tmp_path / "own.gguf")
    loaded = Embedder.load(library, EngineSpec(file, "CPU", 256, queue=2))
    yield loaded
    loaded.close()


class Gate:
    """Stands before every read of a context until it is opened."""

    def __init__(self) -> None:
        self.reads = 0
        self.reached = threading.Event()
        self.opened = threading.Event()
        self._read = EmbeddingContext.read

    def read(self, context: EmbeddingContext, texts: Sequence[Sequence[int]], position: int) -> DecodeResult:
        self.reads += 1
        self.reached.set()
        assert self.opened.wait(WAIT_S)
        return self._read(context, texts, position)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()

    def read(context: EmbeddingContext, texts: Sequence[Sequence[int]], position: int) -> DecodeResult:
        return made.read(context, texts, position)

    monkeypatch.setattr(EmbeddingContext, "read", read)
    return made


def tokens_of(embedder: Embedder, texts: list[str]) -> list[list[int]]:
    return [embedder.model.tokenize(text, add_special=True) for text in texts]


def vectors_of(embedder: Embedder, texts: list[str]) -> list[Vector]:
    return embedder.embed(tokens_of(embedder, texts)).result(WAIT_S)


def distance(left: Vector, right: Vector) -> float:
    return float(np.abs(left - right).max())


def allocated_bytes() -> int:
    """What the process has allocated and not freed. What it occupies depends on the allocator's mood."""
    gc.collect()
    heap = heap_now()
    assert heap is not None
    return heap.in_use_bytes


def test_every_text_gets_a_vector_of_length_one(embedder: Embedder) -> None:
    vectors = vectors_of(embedder, TEXTS)
    assert [vector.shape for vector in vectors] == [(embedder.dimensions,)] * len(TEXTS)
    assert all(vector.dtype == np.float32 for vector in vectors)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_texts_together_get_the_vectors_that_they_get_alone_and_in_their_order(embedder: Embedder) -> None:
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS]
    together = vectors_of(embedder, texts)
    alone = [vectors_of(embedder, [text])[0] for text in texts]
    assert max(map(distance, together, alone)) < ROUNDING
    backwards = vectors_of(embedder, texts[::-1])
    assert max(map(distance, backwards[::-1], alone)) < ROUNDING


def test_different_texts_get_different_vectors(embedder: Embedder) -> None:
    vectors = vectors_of(embedder, TEXTS)
    for number, vector in enumerate(vectors):
        assert all(distance(vector, other) > 20 * ROUNDING for other in vectors[:number])


def test_a_text_longer_than_a_batch_is_read_to_its_end(embedder: Embedder) -> None:
    text = "All hands on deck, said the captain. " * 5
    assert 128 < len(text) < 256
    longer, changed_begin, changed_end = vectors_of(embedder, [text, f"B{text[1:]}", f"{text[:-2]}!!"])
    [again] = vectors_of(embedder, [text])
    assert distance(longer, again) < ROUNDING
    assert distance(longer, changed_begin) > ROUNDING
    assert distance(longer, changed_end) > ROUNDING


def test_a_long_text_read_in_parts_gets_the_vector_that_it_gets_in_one_piece(
    library: Library, tmp_path: Path
) -> None:
    file = write_qwen3(tmp_path / "decoder.gguf")
    text = "All hands on deck, said the captain. " * 5
    vectors = []
    for batch_tokens in (32, 512):
        embedder = Embedder.load(library, EngineSpec(file, "CPU", 256, batch_tokens=batch_tokens))
        vectors += vectors_of(embedder, [text])
        embedder.close()
    assert distance(*vectors) < ROUNDING


def test_no_texts_get_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).result(WAIT_S) == []


def test_the_longest_text_is_embedded_and_a_longer_one_refused(embedder: Embedder) -> None:
    [token] = embedder.model.tokenize("x", add_special=True)
    assert embedder.longest_tokens == 256
    [vector] = embedder.embed([[token] * 256]).result(WAIT_S)
    assert np.isfinite(vector).all()
    with pytest.raises(PromptTooLong, match="257 tokens exceed the context window of 256"):
        embedder.embed([[token], [token] * 257])


def test_no_text_is_longer_than_the_model_was_trained_for(library: Library, tmp_path: Path) -> None:
    file = write_bert(tmp_path / "short.gguf", context_tokens=64)
    embedder = Embedder.load(library, EngineSpec(file, "CPU", 4096))
    assert embedder.longest_tokens == 64
    assert len(embedder.embed([[1] * 64]).result(WAIT_S)) == 1
    embedder.close()


@pytest.mark.parametrize("text", [[], [-1], [1, 10**6]])
def test_a_text_that_cannot_be_read_is_refused(embedder: Embedder, text: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        embedder.embed([[1], text])


@pytest.mark.parametrize("pooling", ["none", "rank"])
def test_a_model_that_gives_no_vector_for_a_text_is_refused(
    library: Library, tmp_path: Path, pooling: str
) -> None:
    file = write_bert(tmp_path / "model.gguf", pooling)
    with pytest.raises(ModelLoadFailed, match="not a model for embeddings"):
        Embedder.load(library, EngineSpec(file, "CPU", 256))


def test_a_model_that_answers_is_refused(library: Library, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="not a model for embeddings"):
        Embedder.load(library, EngineSpec(write_llama(tmp_path / "llama.gguf"), "CPU", 256))


def test_a_file_without_weights_is_refused(library: Library, tmp_path: Path) -> None:
    file = write_bert(tmp_path / "cut.gguf")
    file.write_bytes(file.read_bytes()[:-100_000])
    with pytest.raises(ModelLoadFailed):
        Embedder.load(library, EngineSpec(file, "CPU", 256))


def test_it_can_be_awaited(embedder: Embedder) -> None:
    async def embed() -> list[Vector]:
        return await asyncio.wrap_future(embedder.embed(tokens_of(embedder, TEXTS)))

    assert len(asyncio.run(embed())) == len(TEXTS)


def test_a_full_queue_refuses_and_recovers(own_embedder: Embedder, gate: Gate) -> None:
    futures = [own_embedder.embed([[1]]) for _ in range(3)]
    with pytest.raises(QueueFull):
        own_embedder.embed([[1]])
    gate.opened.set()
    assert all(len(future.result(WAIT_S)) == 1 for future in futures)
    assert own_embedder.embed([[1]]).result(WAIT_S)


def test_a_cancelled_call_makes_room_in_the_queue(own_embedder: Embedder, gate: Gate) -> None:
    futures = [own_embedder.embed([[1]]) for _ in range(3)]
    assert futures[1].cancel()
    last = own_embedder.embed([[1]])
    gate.opened.set()
    assert len(last.result(WAIT_S)) == 1


def test_what_was_cancelled_is_not_read(own_embedder: Embedder, gate: Gate) -> None:
    several_batches = [[1] * 200] * 20
    first, second = own_embedder.embed(several_batches), own_embedder.embed(several_batches)
    assert gate.reached.wait(WAIT_S)
    assert second.cancel()
    assert first.cancel()
    gate.opened.set()
    assert own_embedder.embed([[1]]).result(WAIT_S)
    assert gate.reads == 2, "one that was under way, and the one for the last call"


def test_cancelling_what_has_ended_is_harmless(own_embedder: Embedder) -> None:
    future = own_embedder.embed([[1]])
    future.result(WAIT_S)
    assert not future.cancel()
    assert own_embedder.embed([[1]]).result(WAIT_S)


def test_a_native_fault_ends_its_call_only(own_embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(EmbeddingContext, "read", _native_fault)
        with pytest.raises(EngineFailed, match="code -3"):
            own_embedder.embed([[1]]).result(WAIT_S)
    assert own_embedder.embed([[1]]).result(WAIT_S)


def test_a_full_kv_cache_is_a_fault(own_embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddingContext, "read", lambda *_: DecodeResult.NO_ROOM)
    with pytest.raises(EngineFailed, match="no room"):
        own_embedder.embed([[1]]).result(WAIT_S)


def test_a_breakdown_ends_every_call(own_embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddingContext, "forget", _defect)
    with pytest.raises(EngineFailed, match="broke down: defect"):
        own_embedder.embed([[1]]).result(WAIT_S)
    own_embedder.close()
    with pytest.raises(EngineFailed, match="broke down: defect"):
        own_embedder.embed([[1]])


def test_closing_ends_what_is_read_and_what_waits(own_embedder: Embedder) -> None:
    far_too_much = [[1] * 200] * 20_000
    futures = [own_embedder.embed(far_too_much) for _ in range(3)]
    own_embedder.close()
    for future in futures:
        assert isinstance(future.exception(0), Unloaded)
    with pytest.raises(EngineFailed, match="unloaded"):
        own_embedder.embed([[1]])
    own_embedder.close()


def test_it_works_beside_an_engine_that_answers(embedder: Embedder, library: Library, tmp_path: Path) -> None:
    before = vectors_of(embedder, TEXTS)
    engine = Engine.load(library, EngineSpec(write_llama(tmp_path / "llama.gguf"), "CPU", 1024))
    running = ask(engine, "Tell me.", max_tokens=200)
    assert running.begun.wait(WAIT_S)
    meanwhile = [vectors_of(embedder, TEXTS) for _ in range(5)]
    assert running.finished().usage.generated_tokens == 200
    engine.close()
    assert all(np.array_equal(before, vectors) for vectors in meanwhile)


def test_loading_and_unloading_gives_the_memory_back(library: Library, tmp_path: Path) -> None:
    file = write_bert(tmp_path / "bert.gguf", context_tokens=2048)
    after_bytes = []
    for _ in range(4):
        embedder = Embedder.load(library, EngineSpec(file, "CPU", 2048))
        embedder.embed([[1] * 2048]).result(WAIT_S)
        loaded_bytes = allocated_bytes()
        embedder.close()
        after_bytes.append(allocated_bytes())
        assert loaded_bytes - after_bytes[-1] > 5_000_000
    assert after_bytes[-1] - after_bytes[1] < 500_000, after_bytes


@given(st.lists(st.integers(1, 50)), st.integers(1, 40), st.integers(1, 5))
def test_packs_hold_every_text_once_and_no_more_than_fits(
    lengths: list[int], batch_tokens: int, texts_at_once: int
) -> None:
    found = packs(lengths, batch_tokens, texts_at_once)
    assert [number for pack in found for number in pack] == list(range(len(lengths)))
    for pack in found:
        assert len(pack) <= texts_at_once
        assert len(pack) <= 1 or sum(lengths[number] for number in pack) <= batch_tokens


def test_packs_are_filled() -> None:
    assert packs([10, 10, 10, 30, 5, 5], 20, 8) == [range(2), range(2, 3), range(3, 4), range(4, 6)]
    assert packs([1, 1, 1, 1, 1], 20, 2) == [range(2), range(2, 4), range(4, 5)]


def _native_fault(*_: object) -> None:
    raise EngineFailed("embedding failed with code -3")


def _defect(*_: object) -> None:
    raise ValueError("defect")
