"""Settings that are read again while the service runs."""

import logging
from collections.abc import Callable, Sequence

from server.config import ConfigError, Current, Settings, reloaded

logger = logging.getLogger("llm-optimizer")

Preparation = Callable[[Settings], Callable[[], None]]
"""What a part of the service does about new settings: it checks them, raising ConfigError, and returns what
makes them count. Nothing counts before all parts have agreed."""


class Reload:
    """Reads everything again with ``read``, and lets count what may change while the service runs."""

    def __init__(
        self, current: Current, read: Callable[[], Settings], preparations: Sequence[Preparation]
    ) -> None:
        self._current = current
        self._read = read
        self._preparations = tuple(preparations)

    def run(self) -> None:
        """Do it. Where anything is wrong, all stays as it was, and the log says why."""
        try:
            outcome = reloaded(self._current.settings, self._read())
            applications = [prepare(outcome.settings) for prepare in self._preparations]
        except ConfigError as error:
            logger.error("reload: all stays as it was, because of: %s", error)  # noqa: TRY400  # its text says all
            return
        logger.info("reload: %s", ", ".join(map(str, outcome.changed)) or "no setting has changed")
        if outcome.waiting:
            logger.warning("reload: only after a restart: %s", ", ".join(map(str, outcome.waiting)))
        self._current.settings = outcome.settings
        for apply in applications:
            apply()


def log_level(settings: Settings) -> Callable[[], None]:
    """The least important messages that are still logged."""
    return lambda: logging.getLogger().setLevel(settings.log_level.upper())
