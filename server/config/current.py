"""The settings as they are now: the one place that a reload changes."""

from server.config.settings import RouterSettings, Settings


class Current:
    """Holds the settings tree. Whoever wants to follow a reload keeps this, and asks it at each request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def router(self) -> RouterSettings:
        """When the helper shortens a chat, and how much."""
        return self.settings.router
