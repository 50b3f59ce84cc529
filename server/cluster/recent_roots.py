"""The conversations that were here lately."""

from collections import OrderedDict

MOST_ROOTS = 256
"""Each replica tells all ingresses of so many, every few seconds: 6 KB."""


class RecentRoots:
    """Bounded, without repetitions."""

    def __init__(self, most: int = MOST_ROOTS) -> None:
        self._most = most
        self._roots: OrderedDict[bytes, None] = OrderedDict()

    def add(self, root: bytes) -> None:
        """A turn of this conversation is here."""
        self._roots[root] = None
        self._roots.move_to_end(root)
        if len(self._roots) > self._most:
            self._roots.popitem(last=False)

    def all(self) -> tuple[bytes, ...]:
        """The last one at the end."""
        return tuple(self._roots)
