"""Devices behind llama.cpp's rpc servers, and what is done when ggml gives up on one.

Whoever calls this has asked the server before (``server.engine.rpc``): ggml ends the process where there is
none.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from llama_cpp._ggml import libggml

from server.domain.errors import ModelLoadFailed
from server.engine.llamacpp.devices import ggml

_WHERE_RPC_ABORTS = "ggml-rpc.cpp"
_AddServer = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)
_OnAbort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


def remote_devices(endpoint: str) -> tuple[int, ...]:
    """ggml's handles of the devices of the server at ``address:port``, which stay the same from its first use
    to the end of the process; they do not become devices of this machine.

    Raises:
        ModelLoadFailed: this binding was built without rpc.
    """
    registry = ggml("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)(b"RPC")
    find = ggml("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    address = find(registry, b"ggml_backend_rpc_add_server") if registry else None
    if not address:
        raise ModelLoadFailed(
            "this llama-cpp-python was built without rpc (GGML_RPC=ON), so no model can be split over other "
            "machines; make rebuild-binding builds it"
        )
    server = _AddServer(address)(endpoint.encode())
    if not server:
        raise ModelLoadFailed(f"the rpc server at {endpoint} has no devices")
    count = ggml("ggml_backend_reg_dev_count", ctypes.c_size_t, ctypes.c_void_p)(server)
    get = ggml("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return tuple(get(server, number) for number in range(count))


def on_abort(told: Callable[[str, bool], None]) -> None:
    """Call ``told`` with ggml's last words right before it ends the process, on whichever thread, and with
    whether they are about rpc. Stands for the life of the process, in place of ggml's own print."""

    @_OnAbort  # type: ignore[untyped-decorator]
    def receive(words: bytes) -> None:
        text = words.decode("utf-8", "replace").strip()
        told(text, _WHERE_RPC_ABORTS in text)

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(receive))
    install: Any = libggml.ggml_set_abort_callback
    install.restype, install.argtypes = ctypes.c_void_p, [_OnAbort]
    install(receive)
