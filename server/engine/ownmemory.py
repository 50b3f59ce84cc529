"""Memory for large things that come and go, apart from malloc's."""

import ctypes
import mmap

_LARGE_BYTES = 4 * 2**20
_M_MMAP_THRESHOLD = -3
"""glibc's number for the setting, out of its malloc.h."""


def own_memory(size_bytes: int) -> memoryview:
    """So many bytes, zero, which the system has back as soon as nobody holds the view any more.

    malloc keeps the holes that states of many sizes leave: 60 MiB where 32 MiB of them were kept.
    """
    # Nothing can be mapped with no bytes in it.
    pages = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memoryview(pages)[:size_bytes]


def keep_large_blocks_apart() -> None:
    """From here on malloc, too, gives what is larger than 4 MiB back to the system as soon as it is freed.

    glibc raises that limit to the size of whatever was freed last, up to 32 MiB, and from then on takes what
    is smaller out of its arenas, of which there are many: a server that was busy for two minutes held 100 MiB
    of holes beside 90 in use. Smaller blocks, such as the candidates for a token, stay as fast as they were.
    """
    libc = ctypes.CDLL(None)
    # Other C libraries have no such setting, and no such habit.
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
