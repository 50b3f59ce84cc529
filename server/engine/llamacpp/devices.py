"""The devices that ggml can put a model on."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp._ggml import libggml

from server.domain.errors import ModelLoadFailed

_GPU_TYPES = (1, 2)
"""GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU of ggml-backend.h."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that ggml can put a model on, in ggml's own numbering (``CUDA0``, ``CUDA1``, ...)."""

    name: str
    description: str
    gpu: bool
    pci_bus_id: str | None
    memory_total_bytes: int
    memory_free_bytes: int


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


def all_devices() -> tuple[Device, ...]:
    """All devices that ggml knows, the CPU included."""
    count = ggml("ggml_backend_dev_count", ctypes.c_size_t)()
    get = ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return tuple(_describe(get(index)) for index in range(count))


def has_gpu() -> bool:
    """Whether there is a GPU of this machine that ggml can use; asks none of them anything."""
    by_type = ggml("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)
    return any(by_type(kind) for kind in _GPU_TYPES)


def _describe(handle: int) -> Device:
    properties = _DeviceProperties()
    fill = ggml("ggml_backend_dev_get_props", None, ctypes.c_void_p, ctypes.POINTER(_DeviceProperties))
    fill(handle, ctypes.byref(properties))
    return Device(
        name=properties.name.decode(),
        description=properties.description.decode("utf-8", "replace"),
        gpu=properties.type in _GPU_TYPES,
        pci_bus_id=properties.device_id.decode() if properties.device_id else None,
        memory_total_bytes=int(properties.memory_total),
        memory_free_bytes=int(properties.memory_free),
    )


def device_list(device: str) -> Any:
    """A NULL-terminated list of ggml devices; an empty one keeps a model off every GPU."""
    return null_terminated([] if device == "CPU" else [device_handle(device)])


def device_handle(device: str) -> int:
    """ggml's handle of a device of this machine.

    Raises:
        ModelLoadFailed: there is none of that name.
    """
    handle: int | None = ggml("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)(device.encode())
    if not handle:
        raise ModelLoadFailed(f"this machine has no device {device}")
    return handle


def null_terminated(handles: Sequence[int]) -> Any:
    """A C list of them."""
    return (ctypes.c_void_p * (len(handles) + 1))(*handles, None)


def ggml(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's, as C declares it."""
    function = getattr(libggml, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function
