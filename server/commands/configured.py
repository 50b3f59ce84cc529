"""The settings, for commands."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.commands.failing import WRONG_USE, end

if TYPE_CHECKING:
    from server.config import Settings


def settings_of(config: Path | None, flags: Mapping[str, Any]) -> "Settings":
    """The settings of file, environment and flags; wrong ones end the command."""
    # Imported late: reading settings takes longer to load than all that "--help" needs.
    from server.config import ConfigError, load_settings

    try:
        return load_settings(config, os.environ, flags)
    except ConfigError as error:
        end(str(error), WRONG_USE)
