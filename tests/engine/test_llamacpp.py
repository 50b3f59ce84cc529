"""The native side: what a sequence computes is its own affair."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.tiny_models import write_llama
from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import Context, ContextShape, DecodeResult, Logits
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model


@pytest.fixture(scope="module")
def model(embedded_model: Path) -> Iterator[Model]:
    loaded = Library().load_model(embedded_model, "CPU", -1)
    yield loaded
    loaded.close()


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    made = new_context(model)
    yield made
    made.close()


def new_context(model: Model) -> Context:
    """1024 cells."""
    shape = ContextShape(
        context_tokens=1024,
        batch_tokens=512,
        sequences=8,
        outputs=8,
        sequence_outputs=1,
        threads=2,
        kv_type="f16",
        flash_attention="auto",
        on_gpu=False,
    )
    return model.new_context(shape)


def read_together(context: Context, prompts: Sequence[Sequence[int]]) -> list[Logits]:
    batch = Batch(512)
    rows = [batch.add(prompt, 0, number, outputs=1) for number, prompt in enumerate(prompts)]
    assert context.decode(batch) is DecodeResult.DONE
    return [context.logits(row).copy() for row in rows]


def test_logits_do_not_depend_on_what_the_others_in_the_batch_say(model: Model, context: Context) -> None:
    mine = model.tokenize("The capital of France is", add_special=True)
    others = [model.tokenize(f"{word} something about", add_special=True) for word in ("Tell", "Show")]
    assert len(others[0]) == len(others[1])
    first, _ = read_together(context, [mine, others[0]])
    for sequence in range(2):
        context.cut(sequence, 0)
    second, _ = read_together(context, [mine, others[1]])
    assert np.array_equal(first, second)


def test_a_shared_prefix_counts_like_an_own_one(model: Model, context: Context) -> None:
    prompt = model.tokenize("One two three four five six seven", add_special=True)
    [whole] = read_together(context, [prompt])
    context.share(0, 1, len(prompt) - 1)
    batch = Batch(512)
    row = batch.add(prompt[-1:], len(prompt) - 1, 1, outputs=1)
    assert context.decode(batch) is DecodeResult.DONE
    assert int(context.logits(row).argmax()) == int(whole.argmax())
    assert context.held_tokens(1) == len(prompt)


@pytest.fixture
def tiny_model(tmp_path: Path) -> Iterator[Model]:
    """One that reads fast, where nobody looks at what it says."""
    loaded = Library().load_model(write_llama(tmp_path / "tiny.gguf"), "CPU", -1)
    yield loaded
    loaded.close()


def test_cells_are_free_again_after_a_cut(tiny_model: Model) -> None:
    prompt = tiny_model.tokenize("word " * 480, add_special=True)[:480]
    with contextlib.closing(new_context(tiny_model)) as context:
        for _ in range(3):
            assert len(read_together(context, [prompt])) == 1
            context.cut(0, 0)
        read_together(context, [prompt])
        batch = Batch(512)
        for sequence, result in ((1, DecodeResult.DONE), (2, DecodeResult.NO_ROOM)):
            batch.clear()
            batch.add(prompt, 0, sequence, outputs=0)
            assert context.decode(batch) is result


def test_an_abort_stops_a_decode_and_can_be_taken_back(model: Model, context: Context) -> None:
    prompt = model.tokenize("word " * 400, add_special=True)[:400]
    batch = Batch(512)
    batch.add(prompt, 0, 0, outputs=1)
    context.abort()
    assert context.decode(batch) is DecodeResult.ABORTED
    context.allow()
    context.cut(0, 0)
    assert context.decode(batch) is DecodeResult.DONE


def test_pieces_of_tokens_give_the_text_back(model: Model) -> None:
    text = "Olá, 世界! def f(x):\n\treturn x ** 2  # ½ 🌟"
    tokens = model.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(model.piece, tokens)).decode() == text


def test_special_tokens_are_read_only_when_asked_for(model: Model) -> None:
    text = "<|im_end|>"
    [special] = model.tokenize(text, add_special=False)
    assert model.ends_generation(special)
    assert len(model.tokenize(text, add_special=False, parse_special=False)) > 1
    assert model.piece(special) == b""


def test_the_cpu_is_among_the_devices() -> None:
    assert any(device.name == "CPU" and not device.gpu for device in Library().devices())
