"""The tokens that samplers choose from."""

import ctypes
from collections.abc import Sequence
from typing import Any, Self

import llama_cpp.llama_cpp as native
import numpy as np

from server.engine.llamacpp.context import Logits


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
