"""Builds llama.cpp's ggml-rpc-server from the very sources that the service's binding is built from.

    .venv/bin/python -m bench.build_rpc_server

Prints the program's path: it lends the memory of its machine to a service on another one (docs/rpc.md). Both
must be of one release, for their protocol changes with it. CMAKE_ARGS adds flags; where it is not set, those
of the binding's own build count, so that one for CUDA serves the cards.
"""

import os
import platform
import shlex
import sys
from pathlib import Path

from bench.build_llama_server import PROJECT, BuildFailed, build_flags, built

TARGET = "ggml-rpc-server"
REMEMBERED = PROJECT / ".venv" / "cmake-args"


def built_rpc_server() -> Path:
    """The program, built first if it is not there: ggml alone, nothing of llama.cpp. Raises BuildFailed."""
    return built(TARGET, (*build_flags(platform.machine()), "-DGGML_RPC=ON", *own_flags()), "some minutes")


def own_flags() -> tuple[str, ...]:
    """The user's: given now, or for the binding."""
    given = os.environ.get("CMAKE_ARGS")
    if given is None and REMEMBERED.exists():
        given = REMEMBERED.read_text(encoding="utf-8")
    return tuple(shlex.split(given or ""))


if __name__ == "__main__":
    try:
        print(built_rpc_server())
    except BuildFailed as error:
        sys.exit(f"error: {error}")
