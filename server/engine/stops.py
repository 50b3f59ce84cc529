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
        self.found: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string was complete."""
        return self.found is not None

    def feed(self, text: str) -> str:
        """Return what may be shown now; ``found`` is the stop string once one is complete."""
        if self.stopped:
            return ""
        self._held += text
        first = self._first_stop()
        if first is not None:
            place, self.found = first
            safe, self._held = self._held[:place], ""
            return safe
        keep = held_back(self._held, self._stops)
        split = len(self._held) - keep
        safe, self._held = self._held[:split], self._held[split:]
        return safe

    def flush(self) -> str:
        """Return what was held back: the text has ended, so it is no stop string."""
        rest, self._held = self._held, ""
        return rest

    def _first_stop(self) -> tuple[int, str] | None:
        """Where the stop string that is complete first begins, and which it is."""
        places = ((self._held.find(stop), stop) for stop in self._stops)
        found = [(place + len(stop), place, stop) for place, stop in places if place >= 0]
        return min(found)[1:] if found else None


def held_back(text: str, markers: Sequence[str]) -> int:
    """Length of the longest tail of ``text`` that is a proper beginning of one of ``markers``."""
    longest = max((len(marker) - 1 for marker in markers), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(len(marker) > length and marker.startswith(tail) for marker in markers):
            return length
    return 0
