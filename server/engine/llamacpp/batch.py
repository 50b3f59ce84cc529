"""The tokens that one decode call reads."""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np


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
