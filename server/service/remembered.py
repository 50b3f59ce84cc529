"""What is costly to work out and comes up again with every request of a session."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

V = TypeVar("V")


class Remembered(Generic[V]):
    """Values by a digest of what they were made from; of more than ``most`` those used longest ago go.

    Callable from any thread.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[bytes, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, parts: Iterable[str], make: Callable[[], V]) -> V:
        """The value for ``parts``; what ``make`` returns where there is none yet."""
        key = _digest(parts)
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


def _digest(parts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        # Lengths first: no two lists of parts may run together to the same bytes.
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()
