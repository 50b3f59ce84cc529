"""A real rpc server out of the installed binding: ``python -m tests.rpc.host ADDRESS:PORT [THREADS]``.

It is what ggml-rpc-server does with its options taken away, and needs no build of its own.
"""

import ctypes
import sys

from llama_cpp._ggml import libggml, libggml_base_path

_CPU = 0
"""GGML_BACKEND_DEVICE_TYPE_CPU of ggml-backend.h."""


def main(endpoint: str, threads: int = 1) -> None:
    """Serve the CPU until the process is ended."""
    library = ctypes.CDLL(str(libggml_base_path / "libggml-rpc.so"))
    cpu_of = libggml.ggml_backend_dev_by_type
    cpu_of.restype, cpu_of.argtypes = ctypes.c_void_p, [ctypes.c_int]
    devices = (ctypes.c_void_p * 1)(cpu_of(_CPU))
    start = library.ggml_backend_rpc_start_server
    start.restype = None
    start.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    start(endpoint.encode(), None, threads, 1, ctypes.cast(devices, ctypes.c_void_p))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
