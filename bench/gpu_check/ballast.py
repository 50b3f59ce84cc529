"""A program of its own that fills a card until only so much of it is free, and frees it again.

    python -m bench.gpu_check.ballast PCI_BUS_ID

Reads numbers of bytes from its standard input, one a line, makes that much memory free on the card, or as
nearly as it can, and answers each with what is free and what it holds. It ends, and gives all back, with its
input: so it never outlives whoever started it.
"""

import contextlib
import ctypes
import subprocess
import sys
from collections.abc import Iterator

from bench.gpu_check.parts import Faulty

PIECES_BYTES = (256 * 2**20, 32 * 2**20, 2 * 2**20)
"""The driver hands out memory in pages of 2 MiB."""


class CudaFailed(Faulty):
    """A call of the driver's library failed; the text names it."""


class Card:
    """The memory of one card, by the driver's own library; no toolkit is needed."""

    def __init__(self, pci_bus_id: str) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CudaFailed(f"no NVIDIA driver: {error}") from error
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGetByPCIBusId", ctypes.byref(device), pci_bus_id.encode())
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def free_bytes(self) -> int:
        """What is free on it."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def take(self, size_bytes: int) -> int | None:
        """The address of memory that was taken; None where there is none."""
        address = ctypes.c_uint64()
        try:
            self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        except CudaFailed:
            return None
        return int(address.value)

    def give_back(self, address: int) -> None:
        """Free what was taken."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def _call(self, name: str, *arguments: object) -> None:
        status = self._cuda[name](*arguments)
        if status:
            raise CudaFailed(f"{name} failed with error {status}")


class Filling:
    """What this process holds of a card."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._pieces: list[tuple[int, int]] = []

    @property
    def held_bytes(self) -> int:
        """All of it."""
        return sum(size for _, size in self._pieces)

    def leave(self, wanted_bytes: int) -> int:
        """Take or give back until ``wanted_bytes`` are free; what is free then."""
        while self._pieces and self._card.free_bytes() < wanted_bytes:
            address, _ = self._pieces.pop()
            self._card.give_back(address)
        for size in PIECES_BYTES:
            while self._card.free_bytes() - size >= wanted_bytes:
                taken = self._card.take(size)
                if taken is None:
                    break
                self._pieces.append((taken, size))
        return self._card.free_bytes()


class Ballast:
    """The program, seen from outside."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def leave(self, wanted_bytes: int) -> int:
        """Have it leave so many bytes free; what is free then. Raises CudaFailed."""
        if self._process.stdin is None or self._process.stdout is None:
            raise CudaFailed("the ballast has no pipes")
        try:
            self._process.stdin.write(f"{wanted_bytes}\n")
            self._process.stdin.flush()
        except OSError as error:
            raise CudaFailed(f"the ballast has ended: {error}") from error
        answer = self._process.stdout.readline().split()
        if not answer:
            raise CudaFailed("the ballast has ended")
        return int(answer[0])


@contextlib.contextmanager
def ballast(pci_bus_id: str) -> Iterator[Ballast]:
    """Start the program; at the end of the block it holds nothing any more."""
    command = [sys.executable, "-m", "bench.gpu_check.ballast", pci_bus_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Ballast(process)
        finally:
            # Whether it takes long or hangs in the driver, its memory comes back with its end.
            process.kill()


def main(pci_bus_id: str) -> int:
    """Obey until the input ends."""
    try:
        filling = Filling(Card(pci_bus_id))
        for line in sys.stdin:
            print(filling.leave(int(line)), filling.held_bytes, flush=True)
    except CudaFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
