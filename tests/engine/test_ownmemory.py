"""Memory that comes back to the system."""

import threading
from pathlib import Path

import numpy as np

from server.engine.ownmemory import own_memory

MIB = 2**20


def private_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_it_is_empty_and_as_large_as_asked_for() -> None:
    view = own_memory(1000)
    assert view.nbytes == 1000
    assert bytes(view) == bytes(1000)
    assert own_memory(0).nbytes == 0


def test_what_came_and_went_leaves_nothing_behind() -> None:
    """As the states of conversations do: of all sizes, in a thread of its own, the oldest goes first."""
    sizes = [1 + 7 * number % 30 for number in range(120)]
    before = private_bytes()

    def come_and_go() -> None:
        kept: list[memoryview] = []
        for size in sizes:
            kept.append(own_memory(size * MIB))
            np.frombuffer(kept[-1], np.uint8)[:] = 1
            while sum(view.nbytes for view in kept) > 32 * MIB:
                del kept[len(kept) // 2 - 1 if len(kept) > 1 else 0]

    thread = threading.Thread(target=come_and_go)
    thread.start()
    thread.join()
    assert private_bytes() - before < 8 * MIB
