"""A card is made to compute when a model is loaded; here the CPU stands in for it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.tiny_models import GENERATING, write_bert, write_qwen3
from server.domain.errors import EngineFailed, ModelLoadFailed
from server.engine.embeddings import Embedder
from server.engine.engine import Engine
from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import Context, DecodeResult
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model
from server.engine.spec import EngineSpec, Share
from tests.engine.listening import ask

PROMPT = "What of the harbour, and who wrote it down?"


class WithACard(Library):
    """Puts models for a card on the CPU."""

    def load_model(
        self,
        path: Path,
        device: str,
        gpu_layers: int,
        progress: Callable[[float], bool] | None = None,
        *,
        dry: bool = False,
        shares: Sequence[Share] = (),
    ) -> Model:
        return super().load_model(path, "CPU", 0, progress, dry=dry)


@pytest.fixture(scope="module")
def library() -> Library:
    return WithACard()


def spec(file: Path, device: str) -> EngineSpec:
    return EngineSpec(file, device, 256, threads=1, batch_tokens=128)


@pytest.mark.parametrize("kind", GENERATING)
def test_an_engine_answers_as_without(library: Library, tmp_path: Path, kind: str) -> None:
    file = GENERATING[kind](tmp_path / "model.gguf")
    answers = []
    for device in ("CPU", "CUDA0"):
        engine = Engine.load(library, spec(file, device))
        assert (engine.state.kept_tokens, engine.figures.read_tokens) == (0, 0)
        answers.append(ask(engine, PROMPT, max_tokens=8).finished().tokens)
        assert engine.grow(512) == 512
        answers.append(ask(engine, PROMPT, max_tokens=8).finished().tokens)
        engine.close()
    assert len(answers[0]) == 8
    assert answers == [answers[0]] * 4


@pytest.mark.parametrize("write", [write_bert, write_qwen3])
def test_an_embedder_gives_the_vectors_that_it_gives_without(
    library: Library, tmp_path: Path, write: Callable[[Path, str], Path]
) -> None:
    file = write(tmp_path / "model.gguf", "mean")
    vectors = []
    for device in ("CPU", "CUDA0"):
        embedder = Embedder.load(library, spec(file, device))
        tokens = embedder.model.tokenize(PROMPT, add_special=True)
        vectors += embedder.embed([tokens]).result(timeout=60)
        embedder.close()
    assert np.array_equal(*vectors)


def test_all_that_a_card_will_need_is_taken_at_once(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = Context.decode, []

    def decode(context: Context, batch: Batch) -> DecodeResult:
        sizes.append(batch.size)
        return real(context, batch)

    monkeypatch.setattr(Context, "decode", decode)
    file = GENERATING["llama"](tmp_path / "model.gguf")
    Engine.load(library, spec(file, "CPU")).close()
    assert sizes == []
    engine = Engine.load(library, spec(file, "CUDA0"))
    assert sizes == [128, 1]
    engine.grow(512)
    engine.close()
    assert sizes == [128, 1] * 2


def test_a_card_that_does_not_compute_takes_no_model(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> DecodeResult:
        raise EngineFailed("llama_decode failed with code -3: no kernel")

    monkeypatch.setattr(Context, "decode", fail)
    file = GENERATING["llama"](tmp_path / "model.gguf")
    with pytest.raises(ModelLoadFailed, match="does not compute on CUDA0: llama_decode failed with code -3"):
        Engine.load(library, spec(file, "CUDA0"))
