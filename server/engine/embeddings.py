"""Embeddings: texts in, vectors out. One thread owns an embedding model and its context."""

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from server.domain.errors import (
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    PromptTooLong,
    QueueFull,
    ServiceError,
    Unloaded,
)
from server.engine.figures import Figures
from server.engine.gguf.header import GgufHeader
from server.engine.gguf.reader import read_header
from server.engine.llamacpp.context import ContextShape, DecodeResult
from server.engine.llamacpp.embedding_context import EmbeddingContext, Vector
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model
from server.engine.looks import CacheTiers, EngineState
from server.engine.pulse import Pulse
from server.engine.spec import EngineSpec, usable_cores

logger = logging.getLogger(__name__)

Texts = Sequence[Sequence[int]]
"""Token ids of several texts."""

_MEAN, _CLS, _LAST = 1, 2, 3
"""``enum llama_pooling_type`` of llama.h: the ways that give one vector for a whole text."""

_TEXTS_AT_ONCE = 32


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    texts: Texts
    vectors: "Future[list[Vector]]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What the embedder's thread owns."""

    model: Model
    context: EmbeddingContext
    shape: ContextShape
    longest_tokens: int


class Embedder:
    """An embedding model on a device. Construct it with :meth:`load`; every method may be called from
    any thread.

    Of the spec, ``context_tokens`` limits a text, together with what the model was trained for;
    ``batch_tokens`` are read at once, but a text that must be read in one piece is, however long;
    ``queue`` calls may wait; ``slots`` do not matter.
    """

    def __init__(self, library: Library, spec: EngineSpec) -> None:
        self.spec = spec
        self._library = library
        self._mail: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._outstanding = 0
        self._fault: str | None = None
        self._figures = Figures()
        self._closing = False
        self._pulse = Pulse()
        self._opened: Future[_Opened] = Future()
        self._thread = threading.Thread(target=self._live, name=f"embedder {spec.path.name}", daemon=True)

    @classmethod
    def load(cls, library: Library, spec: EngineSpec) -> "Embedder":
        """Load the model and allocate its context; blocks until both are there.

        Raises:
            ModelLoadFailed: with the reason; also for a model that gives no vectors of whole texts.
        """
        embedder = cls(library, spec)
        embedder._thread.start()
        embedder._opened.result()
        return embedder

    @property
    def model(self) -> Model:
        """The vocabulary side of the model."""
        return self._opened.result().model

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self._opened.result().context.dimensions

    @property
    def longest_tokens(self) -> int:
        """The longest text that can be embedded."""
        return self._opened.result().longest_tokens

    @property
    def state(self) -> EngineState:
        """How busy it is: calls are answered one after another. Its fault if it has broken down."""
        running = min(self._outstanding, 1)
        queued = max(self._outstanding - 1, 0)
        return EngineState(1, running, queued, self.longest_tokens, 0, 0, 0, self._fault)

    @property
    def beats(self) -> int | None:
        """A number that is another after each step; None while it waits for work, or has broken down."""
        return None if self._fault else self._pulse.beats

    @property
    def figures(self) -> Figures:
        """Totals since the model was loaded: calls, and the tokens of their texts."""
        return self._figures

    @property
    def tiers(self) -> CacheTiers:
        """Nothing: texts are not kept."""
        return CacheTiers(0, 0, 0, 0)

    def embed(self, texts: Texts) -> "Future[list[Vector]]":
        """Queue ``texts``; the future has a vector of length 1 for each of them, in their order.

        Cancelling the future is harmless at any time; what is still to be read for it then is not read.
        The future ends with EngineFailed when the native side fails, and with Unloaded when the
        model is unloaded.

        Raises:
            PromptTooLong: a text has more than :attr:`longest_tokens`.
            InvalidRequest: a text has no tokens, or one that the model does not know.
            QueueFull: as many calls wait as the settings allow.
            EngineFailed: the embedder has broken down or was closed.
        """
        self._refuse_unreadable(texts)
        job = _Job(texts)
        if not texts:
            job.vectors.set_result([])
            return job.vectors
        with self._lock:
            self.refuse_when_full()
            self._outstanding += 1
            self._mail.put(job)
        job.vectors.add_done_callback(self._count_down)
        return job.vectors

    def refuse_when_full(self) -> None:
        """Raise what :meth:`embed` would raise now, whatever the texts."""
        if self._fault:
            raise EngineFailed(self._fault)
        if self._outstanding > self.spec.queue:
            raise QueueFull

    def close(self) -> None:
        """End all jobs, free context and weights; blocks until they are free."""
        with self._lock:
            self._closing = True
            if self._fault is None:
                self._opened.result().context.abort()
                self._mail.put(None)
        self._thread.join()

    def _refuse_unreadable(self, texts: Texts) -> None:
        opened = self._opened.result()
        for text in texts:
            if not text:
                raise InvalidRequest("a text without tokens has no embedding")
            if len(text) > opened.longest_tokens:
                raise PromptTooLong(len(text), opened.longest_tokens)
            if not 0 <= min(text) <= max(text) < opened.model.vocabulary_size:
                raise InvalidRequest("the text has tokens that the model does not know")

    def _count_down(self, _ended: "Future[list[Vector]]") -> None:
        with self._lock:
            self._outstanding -= 1

    def _live(self) -> None:
        try:
            opened = self._open()
        except ServiceError as error:
            self._opened.set_exception(error)
            return
        try:
            self._work(opened)
            self._end(Unloaded("the model was unloaded"))
        except Exception as error:
            logger.exception("embedder of %s broke down", self.spec.path.name)
            self._end(EngineFailed(f"the embedder broke down: {error}"))
        finally:
            opened.context.close()
            opened.model.close()

    def _open(self) -> _Opened:
        header = read_header(self.spec.path)
        _refuse_without_pooling(header)
        model = self._library.load_model(
            self.spec.path, self.spec.device, self.spec.gpu_layers, shares=self.spec.shares
        )
        longest_tokens = min(self.spec.context_tokens, model.trained_context_tokens)
        shape = _shape(self.spec, header, longest_tokens)
        try:
            context = EmbeddingContext(model, shape)
        except ServiceError:
            model.close()
            raise
        opened = _Opened(model, context, shape, longest_tokens)
        if self.spec.on_gpu:
            self._warm_up(opened)
        self._opened.set_result(opened)
        return opened

    def _warm_up(self, opened: _Opened) -> None:
        """A device takes part of its memory only when it computes for the first time."""
        try:
            _read(opened, [[0] * min(opened.longest_tokens, opened.shape.batch_tokens)], self._pulse)
        except EngineFailed as error:
            opened.context.close()
            opened.model.close()
            raise ModelLoadFailed(
                f"{self.spec.path} does not compute on {self.spec.device}: {error}"
            ) from error

    def _work(self, opened: _Opened) -> None:
        while not self._closing:
            self._pulse.rest()
            job = self._mail.get()
            self._pulse.beat()
            if job is not None:
                self._answer(opened, job)

    def _answer(self, opened: _Opened, job: _Job) -> None:
        vectors: list[Vector] = []
        lengths = [len(text) for text in job.texts]
        self._figures.requests += 1
        self._figures.prompt_tokens += sum(lengths)
        try:
            for pack in packs(lengths, opened.shape.batch_tokens, opened.shape.sequences):
                if job.vectors.cancelled():
                    return
                vectors += _read(opened, [job.texts[number] for number in pack], self._pulse)
        except ServiceError as error:
            _fail(job, error)
        except Exception as error:
            _fail(job, EngineFailed(f"the embedder broke down: {error}"))
            raise
        else:
            if job.vectors.set_running_or_notify_cancel():
                job.vectors.set_result(vectors)

    def _end(self, error: ServiceError) -> None:
        """Refuse new jobs, and end those in the mail with ``error``."""
        with self._lock:
            self._fault = str(error)
        while not self._mail.empty():
            job = self._mail.get()
            if job is not None:
                _fail(job, error)


def packs(lengths: Sequence[int], batch_tokens: int, texts_at_once: int) -> list[range]:
    """Which texts of these lengths are read together, in their order: as many as fit a batch.

    A text that is longer than the batch is alone in its pack.
    """
    found: list[range] = []
    start = filled_tokens = 0
    for number, length in enumerate(lengths):
        full = filled_tokens + length > batch_tokens or number - start == texts_at_once
        if full and number > start:
            found.append(range(start, number))
            start, filled_tokens = number, 0
        filled_tokens += length
    return [*found, range(start, len(lengths))]


def _read(opened: _Opened, texts: Texts, pulse: Pulse) -> list[Vector]:
    """The vectors of one pack."""
    opened.context.forget()
    size = opened.shape.batch_tokens
    for position in range(0, max(map(len, texts)), size):
        result = opened.context.read([text[position : position + size] for text in texts], position)
        pulse.beat()
        if result is DecodeResult.ABORTED:
            raise Unloaded("the model was unloaded")
        if result is DecodeResult.NO_ROOM:
            raise EngineFailed("the KV cache has no room for texts that should fit")
    return [_normalised(opened.context.vector(number)) for number in range(len(texts))]


def _normalised(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector


def _fail(job: _Job, error: ServiceError) -> None:
    if job.vectors.set_running_or_notify_cancel():
        job.vectors.set_exception(error)


def _refuse_without_pooling(header: GgufHeader) -> None:
    if header.pooling_type not in (_MEAN, _CLS, _LAST):
        raise ModelLoadFailed(
            f"{header.path} is not a model for embeddings: its pooling_type is {header.pooling_type}, "
            f"and only {_MEAN} (mean), {_CLS} (cls) and {_LAST} (last) give a vector for a text"
        )


def is_causal(header: GgufHeader) -> bool:
    """Whether a token sees only those before it."""
    return bool(header.metadata.get(f"{header.architecture}.attention.causal", True))


def reads_in_one_piece(header: GgufHeader) -> bool:
    """Whether all tokens of a text must be in one batch: they see each other, or all of them are pooled."""
    return header.pooling_type != _LAST or not is_causal(header)


def embedding_batch(header: GgufHeader, batch_tokens: int, longest_tokens: int) -> tuple[int, int]:
    """Tokens that are read at once, and texts."""
    if reads_in_one_piece(header):
        batch_tokens = max(batch_tokens, longest_tokens)
    return batch_tokens, min(_TEXTS_AT_ONCE, batch_tokens)


def _shape(spec: EngineSpec, header: GgufHeader, longest_tokens: int) -> ContextShape:
    batch_tokens, texts = embedding_batch(header, spec.batch_tokens, longest_tokens)
    return ContextShape(
        context_tokens=max(longest_tokens, batch_tokens),
        batch_tokens=batch_tokens,
        sequences=texts,
        outputs=batch_tokens,
        sequence_outputs=batch_tokens,
        threads=spec.threads or usable_cores(),
        kv_type=spec.kv_type,
        flash_attention=spec.flash_attention,
        on_gpu=spec.on_gpu,
        embeds=True,
    )
