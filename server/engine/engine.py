"""The face of a loaded model: submit, cancel, look. Behind it, one thread owns model and context."""

import itertools
import logging
import os
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from server.domain.errors import (
    EngineFailed,
    ModelLoadFailed,
    PromptTooLong,
    QueueFull,
    RequestCancelled,
    ServiceError,
)
from server.domain.generation import EventSink, Generation
from server.engine.lane import Job
from server.engine.library import Context, ContextShape, Library, Model
from server.engine.runner import Runner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Add:
    job: Job


@dataclass(frozen=True, slots=True)
class _Grow:
    context_tokens: int
    grown: "Future[int]"


@dataclass(frozen=True, slots=True)
class _LookAgain:
    """A job was cancelled."""


@dataclass(frozen=True, slots=True)
class _Close:
    """End the thread."""


_Letter = _Add | _Grow | _LookAgain | _Close


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to load a model. ``device`` is ggml's name for it (``CPU``, ``CUDA0``);
    ``gpu_layers`` -1 is all; ``threads`` 0 is one for each usable core."""

    path: Path
    device: str
    context_tokens: int
    gpu_layers: int = -1
    kv_type: str = "f16"
    threads: int = 0
    slots: int = 8
    queue: int = 64
    batch_tokens: int = 512


@dataclass(frozen=True, slots=True)
class EngineState:
    """A look at an engine: ``slots`` can run at once, ``running`` do, ``queued`` wait."""

    slots: int
    running: int
    queued: int
    context_tokens: int
    kept_sequences: int
    kept_tokens: int
    fault: str | None = None


class Engine:
    """A model on a device. Construct it with :meth:`load`; every method may be called from any thread."""

    def __init__(self, library: Library, spec: EngineSpec) -> None:
        self.spec = spec
        self._library = library
        self._mail: queue.SimpleQueue[_Letter] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._outstanding = 0
        self._fault: str | None = None
        self._opened: Future[_Opened] = Future()
        self._state = EngineState(spec.slots, 0, 0, spec.context_tokens, 0, 0)
        self._thread = threading.Thread(target=self._live, name=f"engine {spec.path.name}", daemon=True)

    @classmethod
    def load(cls, library: Library, spec: EngineSpec) -> "Engine":
        """Load the model and allocate its context; blocks until both are there.

        Raises:
            ModelLoadFailed: with the reason.
        """
        engine = cls(library, spec)
        engine._thread.start()
        engine._opened.result()
        return engine

    @property
    def model(self) -> Model:
        """The vocabulary side of the model: tokenize, special tokens."""
        return self._opened.result().model

    @property
    def state(self) -> EngineState:
        """How busy the engine is, and its fault if it has broken down."""
        state = self._state
        queued = max(self._outstanding - state.running, 0)
        return replace(state, queued=queued, fault=self._fault)

    def submit(self, generation: Generation, sink: EventSink) -> Job:
        """Queue a generation; its events go to ``sink`` on the engine's thread.

        Raises:
            PromptTooLong: it leaves no room for a single token in the context window.
            QueueFull: as many requests wait as the settings allow.
            EngineFailed: the engine has broken down and must be loaded again.
        """
        job = Job(next(self._numbers), generation, sink)
        if len(generation.prompt) >= self._state.context_tokens:
            raise PromptTooLong(len(generation.prompt), self._state.context_tokens)
        with self._lock:
            self.refuse_when_full()
            self._outstanding += 1
            self._mail.put(_Add(job))
        return job

    def refuse_when_full(self) -> None:
        """Raise what :meth:`submit` would raise now."""
        self._refuse_when_broken()
        if self._outstanding >= self.spec.slots + self.spec.queue:
            raise QueueFull

    def cancel(self, job: Job) -> None:
        """End a job at once, in the middle of a prefill too. Harmless when it has ended."""
        job.cancelled = True
        self._interrupt(_LookAgain())

    def grow(self, context_tokens: int) -> int:
        """Allocate a larger context window; blocks. Running answers are read again and go on.

        Returns the window in tokens. Raises ModelLoadFailed when the device has no room for it;
        the window is then what it was.
        """
        grown: Future[int] = Future()
        with self._lock:
            self._refuse_when_broken()
            self._mail.put(_Grow(context_tokens, grown))
        return grown.result()

    def close(self) -> None:
        """End all jobs, free context and weights; blocks until they are free."""
        self._interrupt(_Close())
        self._thread.join()

    def _refuse_when_broken(self) -> None:
        if self._fault:
            raise EngineFailed(self._fault)

    def _interrupt(self, letter: _Letter) -> None:
        """Deliver ``letter`` without waiting for the batch under way."""
        with self._lock:
            if self._fault is None:
                self._opened.result().context.abort()
                self._mail.put(letter)

    def _live(self) -> None:
        try:
            opened = self._open()
        except ServiceError as error:
            self._opened.set_exception(error)
            return
        try:
            self._work(opened.runner)
            self._end(opened.runner, RequestCancelled("the model was unloaded"))
        except Exception as error:
            logger.exception("engine of %s broke down", self.spec.path.name)
            self._end(opened.runner, EngineFailed(f"the engine broke down: {error}"))
        finally:
            opened.context.close()
            opened.model.close()

    def _open(self) -> "_Opened":
        model = self._library.load_model(self.spec.path, self.spec.device, self.spec.gpu_layers)
        try:
            context = model.new_context(self._shape(self.spec.context_tokens))
        except ServiceError:
            model.close()
            raise
        opened = _Opened(model, context, Runner(model, context, self.spec.slots))
        self._look(opened.runner)
        self._opened.set_result(opened)
        return opened

    def _work(self, runner: Runner) -> None:
        while self._receive(runner):
            ended = runner.step()
            with self._lock:
                self._outstanding -= ended
            self._look(runner)

    def _receive(self, runner: Runner) -> bool:
        """Act on all letters, waiting for one if there is nothing else to do; False: time to close."""
        wait = runner.idle
        while True:
            try:
                letter = self._mail.get(block=wait)
            except queue.Empty:
                return True
            match letter:
                case _Add(job):
                    runner.add(job)
                case _Grow(context_tokens, grown):
                    self._answer_grow(runner, context_tokens, grown)
                case _LookAgain():
                    pass
                case _Close():
                    return False
            wait = False

    def _answer_grow(self, runner: Runner, context_tokens: int, grown: "Future[int]") -> None:
        try:
            grown.set_result(self._enlarge(runner, context_tokens))
        except ModelLoadFailed as error:
            grown.set_exception(error)

    def _enlarge(self, runner: Runner, context_tokens: int) -> int:
        opened = self._opened.result()
        before = opened.context.shape
        if context_tokens <= before.context_tokens:
            return before.context_tokens
        runner.vacate()
        opened.context.close()
        try:
            opened.context = opened.model.new_context(self._shape(context_tokens))
        except ServiceError:
            opened.context = opened.model.new_context(before)
            raise
        finally:
            runner.move_in(opened.context)
            self._look(runner)
        return context_tokens

    def _shape(self, context_tokens: int) -> ContextShape:
        spec = self.spec
        return ContextShape(
            context_tokens=context_tokens,
            batch_tokens=min(spec.batch_tokens, context_tokens),
            # As many finished conversations stay in the cache as answers can run.
            sequences=2 * spec.slots,
            threads=spec.threads or usable_cores(),
            kv_type=spec.kv_type,
            on_gpu=spec.device != "CPU" and spec.gpu_layers != 0,
        )

    def _end(self, runner: Runner, error: ServiceError) -> None:
        """Refuse new jobs, and end those under way and in the mail with ``error``."""
        with self._lock:
            self._fault = str(error)
        while not self._mail.empty():
            match self._mail.get():
                case _Add(job):
                    runner.add(job)
                case _Grow(_, grown):
                    grown.set_exception(error)
        runner.fail_all(error)
        self._outstanding = 0
        self._look(runner)

    def _look(self, runner: Runner) -> None:
        self._state = EngineState(
            slots=self.spec.slots,
            running=runner.running,
            queued=0,
            context_tokens=runner.context_tokens,
            kept_sequences=runner.cache.kept_sequences,
            kept_tokens=runner.cache.kept_tokens,
        )


@dataclass(slots=True)
class _Opened:
    """What the engine's thread owns."""

    model: Model
    context: Context
    runner: Runner


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
