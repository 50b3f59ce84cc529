"""What llama.cpp would allocate, in its own words, without allocating it.

A dry load reads a model's header and vocabulary; its contexts reserve their buffers on paper. That takes
about a second and a few MiB, whatever the model's size, on a GPU as well.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from server.engine.llamacpp.context import ContextShape
from server.engine.llamacpp.library import Library

_MIB = 2**20
_COMPUTE = re.compile(r"(\S+) compute buffer size = +([0-9.]+) MiB")
_OUTPUT = re.compile(r"output buffer size = +([0-9.]+) MiB")
_MEMORY = re.compile(r"size = +([0-9.]+) MiB \( *[0-9]+ cells")
_HOST = re.compile(r"CPU|\w+_Host")


@dataclass(frozen=True, slots=True)
class Allocation:
    """Bytes of buffers, as llama.cpp names them, to a hundredth of a MiB.

    ``weights_bytes`` and ``memory_bytes``, which are KV cache and recurrent states, lie wherever their layers
    do; ``device_compute_bytes`` on the GPU; ``host_compute_bytes`` and ``output_bytes`` in host memory. The
    last is what a context begins with: a row of logits for each sequence.
    """

    weights_bytes: int
    memory_bytes: int
    device_compute_bytes: int
    host_compute_bytes: int
    output_bytes: int


class Rehearsal:
    """A dry load of a model; use it as a context manager.

    Raises:
        ModelLoadFailed: with llama.cpp's own words on the reason.
    """

    def __init__(self, library: Library, path: Path, device: str = "CPU", gpu_layers: int = -1) -> None:
        self._log = library.log
        self._model = library.load_model(path, device, gpu_layers, dry=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model.close()

    def allocation(self, shape: ContextShape) -> Allocation:
        """What a context of ``shape`` would take beside the weights.

        Raises:
            ModelLoadFailed: the shape does not fit the model.
        """
        with self._log.hearing() as lines:
            self._model.new_context(shape).close()
        return allocation_of(lines, self._model.size_bytes)


def allocation_of(lines: Sequence[str], weights_bytes: int) -> Allocation:
    """What the lines of llama.cpp's log say that it has taken for a context."""
    text = "\n".join(lines)
    buffers = [(bool(_HOST.fullmatch(name)), _bytes(mib)) for name, mib in _COMPUTE.findall(text)]
    return Allocation(
        weights_bytes=weights_bytes,
        memory_bytes=sum(map(_bytes, _MEMORY.findall(text))),
        device_compute_bytes=sum(size for on_host, size in buffers if not on_host),
        host_compute_bytes=sum(size for on_host, size in buffers if on_host),
        output_bytes=sum(map(_bytes, _OUTPUT.findall(text))),
    )


def _bytes(mib: str) -> int:
    return round(float(mib) * _MIB)
