"""What was shortened, as it was: kept for a while, so that one can look up what the model did not read."""

import hashlib
from collections import OrderedDict


class Originals:
    """Texts by their sha256, at most ``budget_bytes`` of them; those that were put longest ago go first."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._texts: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def put(self, text: str) -> None:
        """Keep a text, unless it alone is larger than the budget."""
        name, encoded = original_name(text), text.encode()
        self._forget(name)
        if len(encoded) <= self._budget_bytes:
            self._texts[name] = encoded
            self._bytes += len(encoded)
        while self._bytes > self._budget_bytes:
            self._forget(next(iter(self._texts)))

    def get(self, name: str) -> str | None:
        """The text of that name; None if it is not there, or not any more."""
        encoded = self._texts.get(name)
        return None if encoded is None else encoded.decode()

    def _forget(self, name: str) -> None:
        self._bytes -= len(self._texts.pop(name, b""))


def original_name(text: str) -> str:
    """The sha256 of a text, in 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
