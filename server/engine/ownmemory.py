"""Memory for large things that come and go, apart from malloc's."""

import mmap


def own_memory(size_bytes: int) -> memoryview:
    """So many bytes, zero, which the system has back as soon as nobody holds the view any more.

    malloc keeps the holes that states of many sizes leave: 60 MiB where 32 MiB of them were kept.
    """
    # Nothing can be mapped with no bytes in it.
    pages = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memoryview(pages)[:size_bytes]
