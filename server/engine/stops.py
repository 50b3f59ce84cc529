"""Stop strings, found in text that arrives piece by piece."""

from collections.abc import Sequence


class StopScanner:
    """Lets text through until one of ``stops`` appears; neither it nor what follows comes out.

    Only the longest tail that could still grow into a stop string is held back. The stop string
    that is complete first counts, so that it does not matter how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Return what may be shown now; sets ``stopped`` once a stop string is complete."""
        if self.stopped:
            return ""
        self._held += text
        found = self._first_stop()
        if found is not None:
            self.stopped = True
            safe, self._held = self._held[:found], ""
            return safe
        keep = held_back(self._held, self._stops)
        split = len(self._held) - keep
        safe, self._held = self._held[:split], self._held[split:]
        return safe

    def flush(self) -> str:
        """Return what was held back: the text has ended, so it is no stop string."""
        rest, self._held = self._held, ""
        return rest

    def _first_stop(self) -> int | None:
        found = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None


def held_back(text: str, markers: Sequence[str]) -> int:
    """Length of the longest tail of ``text`` that is a proper beginning of one of ``markers``."""
    longest = max((len(marker) - 1 for marker in markers), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(len(marker) > length and marker.startswith(tail) for marker in markers):
            return length
    return 0
