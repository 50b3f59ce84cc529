"""The parameters of a model whose layers are shared out over several devices."""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as native

from server.domain.errors import ModelLoadFailed
from server.engine.llamacpp.devices import device_handle, ggml, null_terminated
from server.engine.llamacpp.rpc_devices import remote_devices
from server.engine.spec import Share

_MATCHES_NOTHING = b"^$"


class _BufferOverride(ctypes.Structure):
    """``struct llama_model_tensor_buft_override`` of llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def split_over(params: Any, shares: Sequence[Share]) -> Any:
    """Let ``params`` put the layers where ``shares`` say, in their order; the CPU's, if any, are the first.

    What is returned must live until the model is loaded: the parameters only point to it.

    Raises:
        ModelLoadFailed: a device is not there.
    """
    offloaded = [share for share in shares if share.device != "CPU"]
    devices = null_terminated([_handle(share) for share in offloaded])
    parts = (ctypes.c_float * native.llama_max_devices())(*(share.layers for share in offloaded))
    overrides = _no_pipeline()
    params.devices = ctypes.cast(devices, ctypes.c_void_p)
    params.split_mode = native.LLAMA_SPLIT_MODE_LAYER
    params.n_gpu_layers = sum(share.layers for share in offloaded)
    params.tensor_split = parts
    params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
    return devices, parts, overrides


def _no_pipeline() -> Any:
    """Batches are computed whole here, so llama.cpp's pipeline over several devices gains nothing; but it
    keeps each input four times. It has no switch, and does without where some tensor has a place of its own.
    """
    somewhere = ggml("ggml_backend_cpu_buffer_type", ctypes.c_void_p)()
    return (_BufferOverride * 2)(_BufferOverride(_MATCHES_NOTHING, somewhere), _BufferOverride(None, None))


def _handle(share: Share) -> int:
    if share.number is None:
        return device_handle(share.device)
    devices = remote_devices(share.device)
    if share.number >= len(devices):
        raise ModelLoadFailed(
            f"the rpc server at {share.device} has other devices than when this service began to use it; "
            "restart the service"
        )
    return devices[share.number]
