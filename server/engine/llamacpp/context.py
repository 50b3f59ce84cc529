"""The KV cache and compute buffers of a model: where its tokens are computed."""

import ctypes
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np

from server.domain.errors import EngineFailed
from server.engine.llamacpp.batch import Batch
from server.engine.llamacpp.log import reason
from server.engine.ownmemory import own_memory

Logits = np.ndarray[Any, np.dtype[np.float32]]

_FLASH_ATTENTION = {
    "auto": native.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": native.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": native.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_KV_TYPES = {"f16": native.GGML_TYPE_F16, "q8_0": native.GGML_TYPE_Q8_0, "q4_0": native.GGML_TYPE_Q4_0}


@dataclass(frozen=True, slots=True)
class ContextShape:
    """What is allocated for a model's work.

    ``batch_tokens`` go into one decode call, of which ``outputs`` may ask for logits, and
    ``sequence_outputs`` of one conversation; ``sequences`` of them share ``context_tokens`` cells of
    KV cache kept as ``kv_type``; ``on_gpu`` places the cache there. ``flash_attention`` is ``on``, ``off``
    or ``auto``, which is llama.cpp's choice. ``embeds``: vectors are asked for, too.
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
    embeds: bool = False

    def native(self) -> Any:
        """The C structure that asks for it."""
        params = native.llama_context_default_params()
        params.n_ctx = self.context_tokens
        params.n_batch = params.n_ubatch = self.batch_tokens
        params.n_seq_max = self.sequences
        params.n_outputs_max = self.outputs
        params.n_outputs_max_per_seq = self.sequence_outputs
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k = params.type_v = _KV_TYPES[self.kv_type]
        params.flash_attn_type = _FLASH_ATTENTION[self.flash_attention]
        params.offload_kqv = params.op_offload = self.on_gpu
        params.embeddings = self.embeds
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        return params


class DecodeResult(Enum):
    """What a decode call ended with; anything else raises."""

    DONE = 0
    NO_ROOM = 1
    ABORTED = 2


class Context:
    """KV cache and compute buffers of a model: owned by one thread, but for :meth:`abort`."""

    def __init__(
        self, pointer: Any, shape: ContextShape, vocabulary_size: int, complaints: deque[str]
    ) -> None:
        self.pointer = pointer
        self.complaints = complaints
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
            raise EngineFailed(f"llama_decode failed with code {code}: {reason(self.complaints)}")
        return DecodeResult(code)

    def warm_up(self) -> None:
        """Compute a whole batch and a single token, and forget them: a device takes part of its memory only
        when it computes for the first time.

        Raises:
            EngineFailed: the library reports a fault.
        """
        longest = min(self.shape.batch_tokens, self.context_tokens - 1)
        batch = Batch(longest)
        for tokens, position in ((longest, 0), (1, longest)):
            batch.clear()
            batch.add([0] * tokens, position, 0, outputs=min(tokens, self.shape.sequence_outputs))
            self.decode(batch)
            native.llama_synchronize(self.pointer)
        native.llama_memory_clear(self._memory, True)

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


def _bytes_of(array: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
