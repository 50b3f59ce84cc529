"""llama.cpp through llama-cpp-python's low-level bindings: the only file that touches ctypes.

Nothing here is safe to use from two threads at once, except :meth:`Model.tokenize`, :meth:`Model.text`,
:meth:`Model.piece` and :meth:`Context.abort`.
"""

import ctypes
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

import llama_cpp
import llama_cpp.llama_cpp as native
import numpy as np
from llama_cpp._ggml import libggml

from server.domain.errors import EngineFailed, ModelLoadFailed
from server.engine.ownmemory import keep_large_blocks_apart, own_memory

logger = logging.getLogger("llama.cpp")

Logits = np.ndarray[Any, np.dtype[np.float32]]

_FLASH_ATTENTION = {
    "auto": native.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": native.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": native.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
KV_TYPES = {"f16": native.GGML_TYPE_F16, "q8_0": native.GGML_TYPE_Q8_0, "q4_0": native.GGML_TYPE_Q4_0}


@dataclass(frozen=True, slots=True)
class Device:
    """A device that ggml can put a model on, in ggml's own numbering (``CUDA0``, ``CUDA1``, ...)."""

    name: str
    description: str
    gpu: bool
    pci_bus_id: str | None
    memory_total_bytes: int
    memory_free_bytes: int


@dataclass(frozen=True, slots=True)
class ContextShape:
    """What is allocated for a model's work.

    ``batch_tokens`` go into one decode call, of which ``outputs`` may ask for logits, and
    ``sequence_outputs`` of one conversation; ``sequences`` of them share ``context_tokens`` cells of
    KV cache kept as ``kv_type``; ``on_gpu`` places the cache there. ``flash_attention`` is ``on``, ``off``
    or ``auto``, which is llama.cpp's choice.
    """

    context_tokens: int
    batch_tokens: int
    sequences: int
    outputs: int
    sequence_outputs: int
    threads: int
    kv_type: str
    flash_attention: str
    on_gpu: bool


_LOG_ERROR = 4
"""GGML_LOG_LEVEL_ERROR of ggml.h."""


class DecodeResult(Enum):
    """What a decode call ended with; anything else raises."""

    DONE = 0
    NO_ROOM = 1
    ABORTED = 2


class _DeviceProperties(ctypes.Structure):
    """``struct ggml_backend_dev_props`` of ggml-backend.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("capabilities", ctypes.c_bool * 5),
    )


class Library:
    """The native library of this process: its log, its devices, and the way to a model."""

    def __init__(self) -> None:
        self._complaints: dict[int, deque[str]] = {}
        keep_large_blocks_apart()
        self._divert_log()
        native.llama_backend_init()

    @property
    def version(self) -> str:
        """Version of the binding."""
        return str(llama_cpp.__version__)

    @property
    def offloads(self) -> bool:
        """Whether this build can put layers on a GPU at all."""
        return bool(native.llama_supports_gpu_offload())

    def devices(self) -> tuple[Device, ...]:
        """All devices that ggml knows, the CPU included."""
        count = _ggml("ggml_backend_dev_count", ctypes.c_size_t)()
        get = _ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
        return tuple(_describe(get(index)) for index in range(count))

    def load_model(
        self, path: Path, device: str, gpu_layers: int, progress: Callable[[float], bool] | None = None
    ) -> "Model":
        """Load the weights of ``path``; ``device`` is a name out of :meth:`devices`, or ``CPU``.

        ``progress`` is called on this thread with the part that is there, from 0 to 1; False gives up.

        Raises:
            ModelLoadFailed: with llama.cpp's own words on the reason.
        """
        params = native.llama_model_default_params()
        chosen = _device_list(device)
        params.devices = ctypes.cast(chosen, ctypes.c_void_p)
        params.split_mode = native.LLAMA_SPLIT_MODE_NONE
        params.n_gpu_layers = 0 if device == "CPU" else gpu_layers
        watch = native.llama_progress_callback(lambda part, _: progress is None or progress(part))
        params.progress_callback = watch
        complaints = self._listen()
        pointer = native.llama_model_load_from_file(str(path).encode(), params)
        if not pointer:
            raise ModelLoadFailed(f"{path} cannot be loaded: {_reason(complaints)}")
        return Model(self, pointer, path)

    def new_context(self, model: "Model", shape: ContextShape) -> "Context":
        """Allocate KV cache and compute buffers for ``model``.

        Raises:
            ModelLoadFailed: the device has no room, or the shape does not fit the model.
        """
        params = native.llama_context_default_params()
        params.n_ctx = shape.context_tokens
        params.n_batch = params.n_ubatch = shape.batch_tokens
        params.n_seq_max = shape.sequences
        params.n_outputs_max = shape.outputs
        params.n_outputs_max_per_seq = shape.sequence_outputs
        params.n_threads = params.n_threads_batch = shape.threads
        params.type_k = params.type_v = KV_TYPES[shape.kv_type]
        params.flash_attn_type = _FLASH_ATTENTION[shape.flash_attention]
        params.offload_kqv = params.op_offload = shape.on_gpu
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        complaints = self._listen()
        pointer = native.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise ModelLoadFailed(
                f"no context of {shape.context_tokens} tokens for {model.path}: {_reason(complaints)}"
            )
        return Context(pointer, shape, model.vocabulary_size, complaints)

    def _listen(self) -> deque[str]:
        """Collect what llama.cpp complains about on this thread from now on."""
        complaints: deque[str] = deque(maxlen=8)
        self._complaints[threading.get_ident()] = complaints
        return complaints

    def _divert_log(self) -> None:
        @native.llama_log_callback  # type: ignore[untyped-decorator]
        def receive(level: int, text: bytes, _data: int) -> None:
            line = text.decode("utf-8", "replace").strip()
            if not line.strip("."):
                return
            if level == _LOG_ERROR and threading.get_ident() in self._complaints:
                self._complaints[threading.get_ident()].append(line)
            logger.debug("%s", line)

        # The C side keeps a bare pointer for the life of the process, so the callback must not die.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(receive))
        native.llama_log_set(receive, ctypes.c_void_p(0))


class Model:
    """Loaded weights and their vocabulary."""

    def __init__(self, library: Library, pointer: Any, path: Path) -> None:
        self._library = library
        self.pointer = pointer
        self.path = path
        self._lock = threading.Lock()
        self._vocabulary = native.llama_model_get_vocab(pointer)
        self._ends: dict[int, bool] = {}
        self.vocabulary_size = int(native.llama_vocab_n_tokens(self._vocabulary))
        self.trained_context_tokens = int(native.llama_model_n_ctx_train(pointer))
        self.size_bytes = int(native.llama_model_size(pointer))
        self.recurrent = bool(
            native.llama_model_is_recurrent(pointer) or native.llama_model_is_hybrid(pointer)
        )
        self.windowed = bool(native.llama_model_n_swa(pointer))
        self.adds_bos = bool(native.llama_vocab_get_add_bos(self._vocabulary))
        self.bos = self._special_text(native.llama_vocab_bos(self._vocabulary))
        self.eos = self._special_text(native.llama_vocab_eos(self._vocabulary))

    def new_context(self, shape: ContextShape) -> "Context":
        """See :meth:`Library.new_context`."""
        return self._library.new_context(self, shape)

    @property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """Tokens for prefix, suffix and middle of a fill-in-the-middle prompt; None without them."""
        vocabulary = self._vocabulary
        tokens = (
            int(native.llama_vocab_fim_pre(vocabulary)),
            int(native.llama_vocab_fim_suf(vocabulary)),
            int(native.llama_vocab_fim_mid(vocabulary)),
        )
        return None if min(tokens) < 0 else tokens

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``. ``parse_special`` reads ``<|...|>`` as the control tokens they name.

        Raises:
            EngineFailed: the model was unloaded in between, or the text is absurdly large.
        """
        data = text.encode("utf-8", "replace")
        with self._lock:
            if self.pointer is None:
                raise EngineFailed("the model was unloaded while the request was being prepared")
            room = len(data) + 8
            tokens = (native.llama_token * room)()
            count = native.llama_tokenize(
                self._vocabulary, data, len(data), tokens, room, add_special, parse_special
            )
        if count < 0:
            raise EngineFailed(f"the text of {len(data)} bytes could not be split into tokens")
        return tokens[:count]

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for; empty for control tokens."""
        return self._piece(token, special=False)

    def text(self, tokens: Sequence[int]) -> str:
        """What ``tokens`` say together, control tokens by their names; U+FFFD for half a character.

        Raises:
            EngineFailed: the model was unloaded in between.
        """
        with self._lock:
            if self.pointer is None:
                raise EngineFailed("the model was unloaded while the request was being prepared")
            pieces = [self._piece(token, special=True) for token in tokens]
        return b"".join(pieces).decode("utf-8", "replace")

    def ends_generation(self, token: int) -> bool:
        """Whether ``token`` is the model's way to say that it has finished."""
        if token not in self._ends:
            self._ends[token] = bool(native.llama_vocab_is_eog(self._vocabulary, token))
        return self._ends[token]

    def first_message_end(self, tokens: Sequence[int]) -> int:
        """Length of the beginning of ``tokens`` that ends with the first end of a message; 0 without one."""
        return next((place for place, token in enumerate(tokens, 1) if self.ends_generation(token)), 0)

    def last_message_end(self, tokens: Sequence[int]) -> int:
        """Length of the beginning of ``tokens`` that ends with the last end of a message; 0 without one."""
        return next(
            (place for place in range(len(tokens), 0, -1) if self.ends_generation(tokens[place - 1])), 0
        )

    def close(self) -> None:
        """Free the weights; every context of the model must be closed before."""
        with self._lock:
            if self.pointer is not None:
                native.llama_model_free(self.pointer)
                self.pointer = None

    def chain(self, samplers: Sequence[Any]) -> Any:
        """A native sampler chain of ``samplers``; it owns them."""
        chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        for sampler in samplers:
            native.llama_sampler_chain_add(chain, sampler)
        return chain

    def grammar(self, gbnf: str) -> Any:
        """A native sampler that allows only what ``gbnf`` allows; None where it is no grammar."""
        return native.llama_sampler_init_grammar(self._vocabulary, gbnf.encode(), b"root")

    def logit_bias(self, bias: Sequence[tuple[int, float]]) -> Any:
        """A native sampler that adds to the logits of some tokens."""
        entries = (native.llama_logit_bias * len(bias))(*(native.llama_logit_bias(*entry) for entry in bias))
        return native.llama_sampler_init_logit_bias(self.vocabulary_size, len(bias), entries)

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else self._piece(token, special=True).decode("utf-8", "replace")

    def _piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = native.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length


class Batch:
    """Tokens for one decode call, in arrays that numpy fills and llama.cpp reads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._sequence_counts = np.ones(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        addresses = self._sequences.ctypes.data + np.arange(capacity, dtype=np.uint64) * 4
        self._sequence_pointers = addresses.astype(np.uint64)
        self._arange = np.arange(capacity, dtype=np.int32)
        self._native = self._over_arrays()

    def clear(self) -> None:
        """Forget all tokens."""
        self.size = 0

    def add(self, tokens: Sequence[int], position: int, sequence: int, *, outputs: int) -> int:
        """Append ``tokens`` of one sequence; the last ``outputs`` of them get logits.

        Returns the row of the last token, which is what a sampler asks for.
        """
        part = slice(self.size, self.size + len(tokens))
        self._tokens[part] = tokens
        self._positions[part] = self._arange[: len(tokens)] + position
        self._sequences[part] = sequence
        self._outputs[part] = 0
        self.size += len(tokens)
        self._outputs[self.size - outputs : self.size] = 1
        return self.size - 1

    def native(self) -> Any:
        """The C structure over these arrays; valid as long as this object lives."""
        self._native.n_tokens = self.size
        return self._native

    def _over_arrays(self) -> Any:
        as_int32 = ctypes.POINTER(ctypes.c_int32)
        return native.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(as_int32),
            pos=self._positions.ctypes.data_as(as_int32),
            n_seq_id=self._sequence_counts.ctypes.data_as(as_int32),
            seq_id=self._sequence_pointers.ctypes.data_as(ctypes.POINTER(as_int32)),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


class Context:
    """KV cache and compute buffers of a model: owned by one thread, but for :meth:`abort`."""

    def __init__(
        self, pointer: Any, shape: ContextShape, vocabulary_size: int, complaints: deque[str]
    ) -> None:
        self.pointer = pointer
        self._complaints = complaints
        self.shape = shape
        self.vocabulary_size = vocabulary_size
        self.context_tokens = int(native.llama_n_ctx(pointer))
        self._memory = native.llama_get_memory(pointer)
        self._window_tokens = int(native.llama_model_n_swa(native.llama_get_model(pointer)))
        self._logit_row = ctypes.c_float * vocabulary_size
        self._abort_flag = ctypes.create_string_buffer(2)
        self._install_abort()

    def decode(self, batch: Batch) -> DecodeResult:
        """Run the model over ``batch``.

        Raises:
            EngineFailed: the library reports a fault; the context's content is undefined.
        """
        code = native.llama_decode(self.pointer, batch.native())
        if code < 0:
            raise EngineFailed(f"llama_decode failed with code {code}: {_reason(self._complaints)}")
        return DecodeResult(code)

    def logits(self, row: int) -> Logits:
        """Logits of a batch row; valid until the next decode."""
        first = native.llama_get_logits_ith(self.pointer, row).contents
        return np.ctypeslib.as_array(self._logit_row.from_address(ctypes.addressof(first)))

    def sample(self, chain: Any, row: int) -> int:
        """Let ``chain`` pick and accept a token from the logits of a batch row."""
        return int(native.llama_sampler_sample(chain, self.pointer, row))

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from the next decode on."""
        native.llama_set_n_threads(self.pointer, threads, threads)

    def cut(self, sequence: int, start: int) -> bool:
        """Remove a sequence's cells from position ``start`` on; False if the model cannot cut there."""
        return bool(native.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def share(self, source: int, target: int, end: int) -> None:
        """Let ``target`` use the cells of ``source`` before position ``end``, too. Copies nothing."""
        native.llama_memory_seq_cp(self._memory, source, target, 0, end)

    def held_tokens(self, sequence: int) -> int:
        """How many positions a sequence holds."""
        return int(native.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def reaches(self, sequence: int, position: int) -> bool:
        """Whether a sequence can go on at ``position``.

        Cells that its sliding window has left behind may hold other sequences' tokens by now.
        """
        first = int(native.llama_memory_seq_pos_min(self._memory, sequence))
        return not self._window_tokens or first <= max(position - self._window_tokens, 0)

    def state_bytes(self, sequence: int) -> int:
        """What :meth:`save` takes."""
        return int(native.llama_state_seq_get_size(self.pointer, sequence))

    def save(self, sequence: int) -> memoryview:
        """A copy of what a sequence holds, in host memory."""
        state = own_memory(self.state_bytes(sequence))
        place = _bytes_of(np.frombuffer(state, np.uint8))
        written = native.llama_state_seq_get_data(self.pointer, place, len(state), sequence)
        return state[:written]

    def restore(self, sequence: int, state: memoryview | bytes | bytearray) -> bool:
        """Put a saved state into an empty sequence; False, and it stays empty, where there is no room."""
        source = np.frombuffer(state, np.uint8)
        if native.llama_state_seq_set_data(self.pointer, _bytes_of(source), len(source), sequence):
            return True
        self.cut(sequence, 0)
        return False

    def abort(self) -> None:
        """Make a running decode return :attr:`DecodeResult.ABORTED`; callable from any thread."""
        self._abort_flag[0] = b"\x01"

    def allow(self) -> None:
        """Take an abort back."""
        self._abort_flag[0] = b"\x00"

    def close(self) -> None:
        """Free the buffers."""
        if self.pointer is not None:
            native.llama_free(self.pointer)
            self.pointer = None

    def _install_abort(self) -> None:
        # ggml asks "abort?" before every node of the graph. A Python callback there would fight for
        # the interpreter's lock a thousand times per step; strlen answers the same question in C:
        # it is 0 for a flag that begins with a zero byte.
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, native.ggml_abort_callback)
        native.llama_set_abort_callback(self.pointer, strlen, ctypes.addressof(self._abort_flag))
        self._strlen = strlen


class CandidateTable:
    """All tokens of a vocabulary with their logits, as the samplers of llama.cpp take them."""

    def __init__(self, vocabulary_size: int) -> None:
        self._rows = np.zeros(
            vocabulary_size, np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        )
        self._ids = np.arange(vocabulary_size, dtype=np.int32)

    def fill(self, logits: Logits) -> Self:
        """Take the logits of all tokens."""
        self._rows["id"] = self._ids
        self._rows["logit"] = logits
        self._rows["p"] = 0.0
        return self

    def single(self, token: int) -> Self:
        """Hold ``token`` alone, as if it were certain."""
        self._rows[0] = (token, 1.0, 0.0)
        return self

    def run(self, samplers: Sequence[Any], size: int | None = None) -> tuple[int, float]:
        """Apply ``samplers`` to the first ``size`` rows; returns the token chosen and its logit.

        Without a choosing sampler among them, it is the first row.
        """
        rows = self._rows.ctypes.data_as(native.llama_token_data_p)
        table = native.llama_token_data_array(
            data=rows, size=len(self._rows) if size is None else size, selected=-1, sorted=False
        )
        for sampler in samplers:
            native.llama_sampler_apply(sampler, ctypes.byref(table))
        chosen = table.data[max(table.selected, 0)]
        return int(chosen.id), float(chosen.logit)


def _bytes_of(array: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _ggml(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(libggml, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


def _describe(handle: int) -> Device:
    properties = _DeviceProperties()
    fill = _ggml("ggml_backend_dev_get_props", None, ctypes.c_void_p, ctypes.POINTER(_DeviceProperties))
    fill(handle, ctypes.byref(properties))
    return Device(
        name=properties.name.decode(),
        description=properties.description.decode("utf-8", "replace"),
        gpu=properties.type in (1, 2),
        pci_bus_id=properties.device_id.decode() if properties.device_id else None,
        memory_total_bytes=int(properties.memory_total),
        memory_free_bytes=int(properties.memory_free),
    )


def _device_list(device: str) -> Any:
    """A NULL-terminated list of ggml devices; an empty one keeps a model off every GPU."""
    if device == "CPU":
        return (ctypes.c_void_p * 1)(None)
    handle = _ggml("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)(device.encode())
    if not handle:
        raise ModelLoadFailed(f"this machine has no device {device}")
    return (ctypes.c_void_p * 2)(handle, None)


def _reason(complaints: Sequence[str]) -> str:
    return "; ".join(complaints) or "llama.cpp gave no reason"


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
        native.llama_set_embeddings(self._context.pointer, True)

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
            raise EngineFailed(f"embedding failed with code {code}: {_reason(self._context._complaints)}")
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
