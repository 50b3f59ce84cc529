"""The settings: one frozen tree, read at the start and passed down; a reload makes another tree of it."""

from server.config.addresses import split_address
from server.config.current import Current
from server.config.durations import format_duration, parse_duration
from server.config.errors import ConfigError
from server.config.keys import Key, Right, read_key, read_keys
from server.config.load import load_settings
from server.config.model_settings import ModelSettings
from server.config.reload import reloaded
from server.config.settings import LimitSettings, RouterSettings, Settings
from server.config.sources import FlagValue

__all__ = [
    "ConfigError",
    "Current",
    "FlagValue",
    "Key",
    "LimitSettings",
    "ModelSettings",
    "Right",
    "RouterSettings",
    "Settings",
    "format_duration",
    "load_settings",
    "parse_duration",
    "read_key",
    "read_keys",
    "reloaded",
    "split_address",
]
