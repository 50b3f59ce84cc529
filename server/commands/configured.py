"""The settings, for commands."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.commands.failing import WRONG_USE, end

if TYPE_CHECKING:
    from server.config import Settings


def settings_of(config: Path | None, flags: Mapping[str, Any]) -> "Settings":
    """The settings of file, environment and flags; wrong ones end the command."""
    from server.config import load_settings

    with wrong_ones_end_it():
        return load_settings(config, os.environ, flags)


@contextlib.contextmanager
def wrong_ones_end_it() -> Iterator[None]:
    """Settings that are found to be wrong within the block end the command; the catalogue is read late."""
    # Imported late: reading settings takes longer to load than all that "--help" needs.
    from server.config import ConfigError

    try:
        yield
    except ConfigError as error:
        end(str(error), WRONG_USE)
