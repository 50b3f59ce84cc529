"""Memory that comes back to the system."""

import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

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


BLOCK_FREED_AND_SMALLER_ONE_TAKEN = """
import ctypes
from server.engine.ownmemory import heap_now, keep_malloc_lean

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
{setting}
libc.free(libc.malloc(24 << 20))
before = heap_now().mapped_bytes
block = libc.malloc(8 << 20)
print((heap_now().mapped_bytes - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a habit of glibc's malloc")
@pytest.mark.parametrize(("setting", "mapped_mib"), [("", 0), ("keep_malloc_lean()", 8)])
def test_a_large_block_never_comes_out_of_an_arena(setting: str, mapped_mib: int) -> None:
    """Without the setting it does, once a larger one was freed."""
    code = BLOCK_FREED_AND_SMALLER_ONE_TAKEN.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == mapped_mib


ARENAS_OF_EIGHT_THREADS = """
import ctypes, threading
from server.engine.ownmemory import keep_malloc_lean

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
{setting}
together = threading.Barrier(9)

def take():
    together.wait()
    libc.malloc(100_000)
    together.wait()

for _ in range(8):
    threading.Thread(target=take, daemon=True).start()
together.wait()
together.wait()
lines = [line.split() for line in open("/proc/self/maps")]
starts = [int(line[0].split("-")[0], 16) for line in lines if line[1] == "rw-p" and len(line) == 5]
print(sum(start % (64 << 20) == 0 for start in starts))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a habit of glibc's malloc")
@pytest.mark.parametrize(("setting", "most"), [("", 8), ("keep_malloc_lean()", 1)])
def test_threads_share_what_malloc_keeps(setting: str, most: int) -> None:
    """Beside the first arena, which lies elsewhere, one more; without the setting one a thread."""
    code = ARENAS_OF_EIGHT_THREADS.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 <= int(done.stdout) <= most
    assert setting or int(done.stdout) > 1


HELD_AND_FREED = """
import ctypes
from server.engine.ownmemory import heap_now

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
looks = [heap_now()]
blocks = [libc.malloc(50_000) for _ in range(400)]
# The last one stays, so that those before it are holes, and none is given back to the system.
looks.append(heap_now())
for block in blocks[:-1]:
    libc.free(block)
looks.append(heap_now())
for before, after in zip(looks, looks[1:]):
    print((after.in_use_bytes - before.in_use_bytes) // 1_000_000)
print((looks[2].free_bytes - looks[1].free_bytes) // 1_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc tells it")
def test_what_is_held_is_told_from_holes() -> None:
    code = [sys.executable, "-c", HELD_AND_FREED]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    taken_mb, returned_mb, holes_mb = (int(line) for line in done.stdout.split())
    assert 19 <= taken_mb <= 21
    assert -21 <= returned_mb <= -19
    assert 18 <= holes_mb <= 21


HOLES = """
import ctypes, re
from server.engine.ownmemory import give_holes_back

def resident_kb():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(50_000) for _ in range(400)]
for block in blocks:
    ctypes.memset(block, 1, 50_000)
for block in blocks[:-1]:
    libc.free(block)
before = resident_kb()
{given_back}
print(round((before - resident_kb()) / 1000))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a habit of glibc's malloc")
@pytest.mark.parametrize(("given_back", "least_mb", "most_mb"), [("", 0, 0), ("give_holes_back()", 15, 21)])
def test_holes_are_given_back(given_back: str, least_mb: int, most_mb: int) -> None:
    code = [sys.executable, "-c", HOLES.format(given_back=given_back)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert least_mb <= int(done.stdout) <= most_mb
