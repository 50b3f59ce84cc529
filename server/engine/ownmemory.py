"""Memory for large things that come and go, apart from malloc's."""

import ctypes
import mmap
from dataclasses import dataclass

_LARGE_BYTES = 4 * 2**20
_ARENAS = 2
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""glibc's numbers for the settings, out of its malloc.h."""


@dataclass(frozen=True)
class Heap:
    """What malloc holds, in bytes: what was asked for and not freed, with pages of its own or out of an
    arena, and the holes in the arenas."""

    in_use_bytes: int
    mapped_bytes: int
    """The part of it that has pages of its own."""
    free_bytes: int


class _Mallinfo2(ctypes.Structure):
    """glibc's struct of that name; see mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def own_memory(size_bytes: int) -> memoryview:
    """So many bytes, zero, which the system has back as soon as nobody holds the view any more.

    malloc keeps the holes that states of many sizes leave: 60 MiB where 32 MiB of them were kept.
    """
    # Nothing can be mapped with no bytes in it.
    pages = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memoryview(pages)[:size_bytes]


def keep_malloc_lean() -> None:
    """From here on malloc, too, gives what is larger than 4 MiB back to the system as soon as it is freed,
    and all threads share two arenas.

    glibc raises that limit to the size of whatever was freed last, up to 32 MiB, and from then on takes what
    is smaller out of its arenas: a server that was busy for two minutes held 100 MiB of holes beside 90 in
    use. Smaller blocks, such as the candidates for a token, stay as fast as they were. And each thread has an
    arena, up to eight a core, which keeps what its busiest moment took: after ten minutes of mixed work
    thirteen of them had 202 MiB and went on growing; two have 107 and do not.
    """
    libc = ctypes.CDLL(None)
    # Other C libraries have no such settings, and no such habits.
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def give_holes_back() -> None:
    """Have malloc return what lies free in its arenas to the system, page by page.

    By itself it returns only what is free at an arena's end, and of a model's vocabulary, which is a hundred
    thousand small blocks, hardly anything is.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def heap_now() -> Heap | None:
    """What malloc holds right now, of all threads; None where the C library does not tell it.

    glibc does since 2.33. Python's small objects and :func:`own_memory` are not part of it.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = _Mallinfo2
    info = libc.mallinfo2()
    return Heap(info.uordblks + info.hblkhd, info.hblkhd, info.fordblks)
