"""Whether a thread that computes gets on with its work, for whoever watches over it."""


class Pulse:
    """Counts the steps of one thread. Only that thread calls :meth:`beat` and :meth:`rest`; any may read."""

    def __init__(self) -> None:
        self._beats = 0
        self._resting = False

    def beat(self) -> None:
        """A step is done, and the next one begins."""
        self._beats += 1
        self._resting = False

    def rest(self) -> None:
        """There is nothing to do until somebody asks for something."""
        self._resting = True

    @property
    def beats(self) -> int | None:
        """A number that is another after each step; None while the thread waits for work."""
        return None if self._resting else self._beats
