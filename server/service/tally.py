"""What all engines have done since the service started: those that are loaded, and those that were."""

import threading
from collections.abc import Mapping

from server.engine.figures import Figures


class Tally:
    """Totals by the names of models, which never go down. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counting: list[tuple[str, Figures]] = []
        self._ended: dict[str, Figures] = {}

    def begin(self, name: str, figures: Figures) -> None:
        """A model was loaded, and its engine counts in ``figures`` from now on."""
        with self._lock:
            self._counting.append((name, figures))

    def end(self, figures: Figures) -> None:
        """The engine that counts in ``figures`` is closed, and counts no more."""
        with self._lock:
            for name, counted in self._counting:
                if counted is figures:
                    self._ended[name] = self._ended.get(name, Figures()).plus(figures)
            self._counting = [pair for pair in self._counting if pair[1] is not figures]

    def totals(self) -> Mapping[str, Figures]:
        """A copy for each model that was ever loaded."""
        with self._lock:
            found = dict(self._ended)
            for name, figures in self._counting:
                found[name] = found.get(name, Figures()).plus(figures)
            return found
