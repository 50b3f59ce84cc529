"""A context that reads texts into vectors, in place of logits."""

from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np

from server.domain.errors import EngineFailed
from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.context import ContextShape, DecodeResult
from server.engine.llamacpp.log import reason
from server.engine.llamacpp.model import Model

Vector = np.ndarray[Any, np.dtype[np.float32]]
"""An embedding."""


class EmbeddingContext:
    """Reads texts into vectors, in place of logits: owned by one thread, but for :meth:`abort`.

    ``shape.sequences`` is how many texts can be read at once.

    Raises:
        ModelLoadFailed: the device has no room, or the shape does not fit the model.
    """

    def __init__(self, model: Model, shape: ContextShape) -> None:
        self.dimensions = int(native.llama_model_n_embd_out(model.pointer))
        self._context = model.new_context(shape)
        self._batch = Batch(shape.batch_tokens)
        self._memory = native.llama_get_memory(self._context.pointer)
        has_decoder = self._memory is not None and native.llama_model_has_decoder(model.pointer)
        self._run = native.llama_decode if has_decoder else native.llama_encode

    def read(self, texts: Sequence[Sequence[int]], position: int) -> DecodeResult:
        """Read these parts of texts, all of which begin at ``position`` of theirs.

        Raises:
            EngineFailed: the library reports a fault.
        """
        self._batch.clear()
        for number, part in enumerate(texts):
            self._batch.add(part, position, number, outputs=len(part))
        code = self._run(self._context.pointer, self._batch.native())
        if code < 0:
            raise EngineFailed(f"embedding failed with code {code}: {reason(self._context.complaints)}")
        return DecodeResult(code)

    def vector(self, number: int) -> Vector:
        """What the model made of the text that was the ``number``-th of the last :meth:`read`."""
        values = native.llama_get_embeddings_seq(self._context.pointer, number)
        if not values:
            raise EngineFailed(f"llama.cpp has no embedding for text {number} of the batch")
        return np.array(values[: self.dimensions], np.float32)

    def forget(self) -> None:
        """Drop all that was read."""
        native.llama_memory_clear(self._memory, False)

    def abort(self) -> None:
        """Make a running read return :attr:`DecodeResult.ABORTED`; callable from any thread."""
        self._context.abort()

    def close(self) -> None:
        """Free the buffers."""
        self._context.close()
