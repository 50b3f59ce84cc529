"""The face of a loaded model: submit, cancel, look. Behind it, one thread owns model and context."""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from server.domain.errors import (
    EngineFailed,
    ModelLoadFailed,
    PromptTooLong,
    QueueFull,
    ServiceError,
    Unloaded,
)
from server.domain.generation import EventSink, Generation
from server.engine.disktier import DiskTier
from server.engine.figures import Figures
from server.engine.lane import Job
from server.engine.llamacpp.context import Context, ContextShape
from server.engine.llamacpp.library import Library
from server.engine.llamacpp.model import Model
from server.engine.looks import CacheTiers, EngineState
from server.engine.pace import Speed
from server.engine.prefix import Tokens, common_prefix, tokens_of
from server.engine.pulse import Pulse
from server.engine.runner import Runner
from server.engine.spec import EngineSpec, default_threads
from server.engine.store import StateStore

logger = logging.getLogger(__name__)

TIDY_AFTER_S = 5.0
"""Writing a long state to disk takes a second of a core: the next turn of an agent comes sooner than this."""

_BETWEEN_LOOKS_S = 0.1


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
class _Spill:
    """Finished conversations go to host memory."""


@dataclass(frozen=True, slots=True)
class _Close:
    """End the thread."""


_Letter = _Add | _Grow | _LookAgain | _Spill | _Close


class Engine:
    """A model on a device. Construct it with :meth:`load`; every method may be called from any thread."""

    def __init__(self, library: Library, spec: EngineSpec) -> None:
        self.spec = spec
        self._library = library
        self._mail: queue.SimpleQueue[_Letter] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._outstanding = 0
        self._looked_s = 0.0
        self._fault: str | None = None
        self._opened: Future[_Opened] = Future()
        self._progress: Callable[[float], bool] = lambda part: True
        self._pulse = Pulse()
        self._state = EngineState(spec.slots, 0, 0, spec.context_tokens, 0, 0, 0)
        self._known: tuple[Tokens, ...] = ()
        self._speed = Speed()
        self._thread = threading.Thread(target=self._live, name=f"engine {spec.path.name}", daemon=True)

    @classmethod
    def load(
        cls, library: Library, spec: EngineSpec, progress: Callable[[float], bool] | None = None
    ) -> "Engine":
        """Load the model and allocate its context; blocks until both are there.

        ``progress`` is called on the engine's thread with the part of the weights that is there; False gives
        up.

        Raises:
            ModelLoadFailed: with the reason.
        """
        engine = cls(library, spec)
        engine._progress = progress or engine._progress
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

    @property
    def figures(self) -> Figures:
        """Totals since the model was loaded."""
        return self._opened.result().runner.figures

    @property
    def tiers(self) -> CacheTiers:
        """What is kept outside of the KV cache."""
        store = self._opened.result().store
        return CacheTiers(store.ram_bytes, store.disk_bytes, store.entries, store.evictions)

    @property
    def speed(self) -> Speed:
        """How fast it was lately."""
        return self._speed

    @property
    def beats(self) -> int | None:
        """A number that is another after each step; None while it waits for work, or has broken down."""
        return None if self._fault else self._pulse.beats

    def known_tokens(self, prompt: Sequence[int]) -> int:
        """How many tokens at the start of ``prompt`` a conversation that is kept somewhere begins with.

        As of the last look at it: by the time the prompt is read, it may be more or less.
        """
        tokens = tokens_of(prompt)
        return max((common_prefix(tokens, known) for known in self._known), default=0)

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
            job.position = max(self._outstanding - self.spec.slots, 0)
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
        # A batch that reads other prompts is not worth breaking off for the one token of this job.
        self._interrupt(_LookAgain(), at_once=self._opened.result().runner.is_reading(job))

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

    def spill(self) -> None:
        """Move finished conversations to host memory when the engine gets to it; returns at once."""
        self._interrupt(_Spill(), at_once=False)

    def close(self) -> None:
        """End all jobs, free context and weights; blocks until they are free."""
        self._interrupt(_Close(), at_once=True)
        self._thread.join()

    def _refuse_when_broken(self) -> None:
        if self._fault:
            raise EngineFailed(self._fault)

    def _interrupt(self, letter: _Letter, *, at_once: bool) -> None:
        """Deliver ``letter``; ``at_once`` does not wait for the batch under way."""
        with self._lock:
            if self._fault is None:
                if at_once:
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
            opened.runner.cells.tidy_up()
            self._end(opened.runner, Unloaded("the model was unloaded"))
        except Exception as error:
            logger.exception("engine of %s broke down", self.spec.path.name)
            self._end(opened.runner, EngineFailed(f"the engine broke down: {error}"))
        finally:
            opened.context.close()
            opened.model.close()
            opened.store.close()

    def _open(self) -> "_Opened":
        spec = self.spec
        model = self._library.load_model(
            spec.path, spec.device, spec.gpu_layers, self._progress, shares=spec.shares
        )
        try:
            context = self._new_context(model, spec.context_tokens)
        except ServiceError:
            model.close()
            raise
        store = self._new_store(model)
        runner = Runner(
            model, context, store, slots=spec.slots, stall_s=spec.stall_s, draft_tokens=spec.draft_tokens
        )
        opened = _Opened(model, context, store, runner)
        self._look(opened.runner)
        self._opened.set_result(opened)
        return opened

    def _new_store(self, model: Model) -> StateStore:
        spec = self.spec
        disk = None
        if spec.cache_dir and spec.disk_cache_bytes and spec.digest:
            # All that a state's bytes depend on. The size of the context is not among it.
            scope = (
                f"llama-cpp-python {self._library.version}, model {spec.digest}, KV {spec.kv_type}, "
                f"flash attention {spec.flash_attention}"
            )
            disk = DiskTier(spec.cache_dir, spec.disk_cache_bytes, scope)
        return StateStore(spec.host_cache_bytes, disk, trimmable=not (model.recurrent or model.windowed))

    def _work(self, runner: Runner) -> None:
        while self._receive(runner):
            ended = runner.step()
            if ended:
                with self._lock:
                    self._outstanding -= ended
            self._look_now_and_then(runner)
            self._pulse.beat()

    def _receive(self, runner: Runner) -> bool:
        """Act on all letters, waiting for one if there is nothing else to do; False: time to close."""
        wait_s = _wait_s(runner)
        if wait_s != 0:
            runner.rest()
            self._pulse.rest()
        while True:
            try:
                letter = self._mail.get(block=wait_s != 0, timeout=wait_s)
            except queue.Empty:
                self._pulse.beat()
                return True
            self._pulse.beat()
            match letter:
                case _Add(job):
                    runner.add(job)
                case _Grow(context_tokens, grown):
                    self._answer_grow(runner, context_tokens, grown)
                case _LookAgain():
                    pass
                case _Spill():
                    runner.cells.evict_all()
                case _Close():
                    return False
            wait_s = 0

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
            opened.context = self._new_context(opened.model, context_tokens)
        except ServiceError:
            opened.context = opened.model.new_context(before)
            raise
        finally:
            runner.move_in(opened.context)
            self._look(runner)
        return context_tokens

    def _new_context(self, model: Model, context_tokens: int) -> Context:
        """A context that has taken of a GPU all that it will take."""
        context = model.new_context(self._shape(context_tokens))
        try:
            if self.spec.on_gpu:
                context.warm_up()
        except EngineFailed as error:
            context.close()
            raise ModelLoadFailed(
                f"{self.spec.path} does not compute on {self.spec.device}: {error}"
            ) from error
        return context

    def _shape(self, context_tokens: int) -> ContextShape:
        spec = self.spec
        return ContextShape(
            context_tokens=context_tokens,
            batch_tokens=min(spec.batch_tokens, context_tokens),
            sequences=spec.sequences,
            outputs=spec.outputs,
            sequence_outputs=spec.draft_tokens + 1,
            threads=spec.threads or default_threads(on_gpu=spec.cpu_waits),
            kv_type=spec.kv_type,
            flash_attention=spec.flash_attention,
            on_gpu=spec.on_gpu,
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

    def _look_now_and_then(self, runner: Runner) -> None:
        """Counting cells takes longer than the rest of a look, and nothing changes much in a step."""
        now_s = time.monotonic()
        if runner.running != self._state.running or runner.idle or now_s - self._looked_s > _BETWEEN_LOOKS_S:
            self._looked_s = now_s
            self._look(runner)

    def _look(self, runner: Runner) -> None:
        self._known = runner.cells.known
        self._speed = runner.speed
        self._state = EngineState(
            slots=self.spec.slots,
            running=runner.running,
            queued=0,
            context_tokens=runner.context_tokens,
            cells_in_use=runner.cells_in_use,
            kept_sequences=runner.cells.kept_sequences,
            kept_tokens=runner.cells.kept_tokens,
        )


@dataclass(slots=True)
class _Opened:
    """What the engine's thread owns."""

    model: Model
    context: Context
    store: StateStore
    runner: Runner


def _wait_s(runner: Runner) -> float | None:
    """How long the engine may wait for a letter: not at all while it has work, for ever if it has none."""
    if not runner.idle:
        return 0
    return TIDY_AFTER_S if runner.cells.untidy else None
