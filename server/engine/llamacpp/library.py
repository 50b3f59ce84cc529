"""The native library of this process, and the way to a model."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as native

from server.domain.errors import ModelLoadFailed
from server.engine.llamacpp.devices import Device, all_devices, device_list, has_gpu
from server.engine.llamacpp.log import NativeLog, reason
from server.engine.llamacpp.model import Model
from server.engine.ownmemory import keep_malloc_lean
from server.engine.spec import Share


class Library:
    """The native library of this process: its log, its devices, and the way to a model."""

    def __init__(self) -> None:
        keep_malloc_lean()
        self.log = NativeLog()
        native.llama_backend_init()

    @property
    def version(self) -> str:
        """Version of the binding."""
        return str(llama_cpp.__version__)

    @property
    def offloads(self) -> bool:
        """Whether this build can put layers on a GPU at all."""
        # llama.cpp's own word counts rpc as well, which every build has here.
        return has_gpu()

    def devices(self) -> tuple[Device, ...]:
        """All devices that ggml knows, the CPU included."""
        return all_devices()

    def load_model(
        self,
        path: Path,
        device: str,
        gpu_layers: int,
        progress: Callable[[float], bool] | None = None,
        *,
        dry: bool = False,
        shares: Sequence[Share] = (),
    ) -> Model:
        """Load the weights of ``path``; ``device`` is a name out of :meth:`devices`, or ``CPU``.

        ``progress`` is called on this thread with the part that is there, from 0 to 1; False gives up.
        ``dry`` takes no memory for weights and contexts: see ``rehearsal``. ``shares`` put the layers on
        several devices; then ``device`` and ``gpu_layers`` say nothing.

        Raises:
            ModelLoadFailed: with llama.cpp's own words on the reason.
        """
        params = native.llama_model_default_params()
        if shares:
            from server.engine.llamacpp.split import split_over  # noqa: PLC0415

            chosen = split_over(params, shares)
        else:
            chosen = device_list(device)
            params.devices = ctypes.cast(chosen, ctypes.c_void_p)
            params.split_mode = native.LLAMA_SPLIT_MODE_NONE
            params.n_gpu_layers = 0 if device == "CPU" else gpu_layers
        if dry:
            # What is mapped cannot be left out.
            params.no_alloc, params.load_mode = True, native.LLAMA_LOAD_MODE_NONE
        watch = native.llama_progress_callback(lambda part, _: progress is None or progress(part))
        params.progress_callback = watch
        complaints = self.log.listen()
        pointer = native.llama_model_load_from_file(str(path).encode(), params)
        if not pointer:
            raise ModelLoadFailed(f"{path} cannot be loaded: {reason(complaints)}")
        return Model(self.log, pointer, path)
