"""Where settings come from. Each source becomes a layer of values that know their origin.

pydantic-settings' own sources are not used: they read the process environment by themselves,
pass over unknown variables, and forget which source a value came from before it is checked.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, get_origin

from server.config.errors import ConfigError
from server.config.options import CLIENT_ENV_NAMES, ENV_PREFIX, OPTIONS, SECTIONS, Option, toml_text

_LONGEST_SHOWN = 120


class Origin(Enum):
    """The sources, from the weakest to the strongest."""

    DEFAULT = auto()
    FILE = auto()
    ENVIRONMENT = auto()
    FLAGS = auto()


@dataclass(frozen=True, slots=True)
class FlagValue:
    """A value that a flag gave, with the flag's name as the user typed it, such as ``--port``."""

    value: Any
    flag: str


@dataclass(frozen=True, slots=True)
class Given:
    """A value and who gave it. ``name`` is what the user wrote: a dotted key, or a variable's name."""

    name: str
    value: Any
    origin: Origin
    where: str

    def __str__(self) -> str:
        text = toml_text(self.value)
        shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
        return f"{self.name} = {shown} ({self.where})"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says, by dotted key, and what in it is no setting at all."""

    given: Mapping[str, Given] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def from_defaults() -> Layer:
    """The lowest layer; it has every option."""
    return Layer(
        {key: Given(key, option.default, Origin.DEFAULT, "default") for key, option in OPTIONS.items()}
    )


def from_file(file: Path) -> Layer:
    """The options that a TOML file sets."""
    return _layer(_read_toml(file), Origin.FILE, f"from {file}")


def from_flags(flags: Mapping[str, Any]) -> Layer:
    """The options that flags set; None is a flag that was not given."""
    return _layer(flags, Origin.FLAGS, "command line")


def from_environment(environ: Mapping[str, str]) -> Layer:
    """The options that environment variables set."""
    known = {name: option for option in OPTIONS.values() for name in option.env_names}
    given = {
        option.key: Given(name, _from_text(environ[name], option), Origin.ENVIRONMENT, "environment")
        for name, option in known.items()
        if name in environ
    }
    faults = tuple(
        f"{name} is not a setting (environment)" + _suggestion(name.upper(), known)
        for name in environ
        if name.upper().startswith(ENV_PREFIX) and name not in known and name not in CLIENT_ENV_NAMES
    )
    return Layer(given, faults)


def _layer(tree: Mapping[str, Any], origin: Origin, where: str) -> Layer:
    given: dict[str, Given] = {}
    faults = []
    for key, value in _flat(tree, ""):
        if isinstance(value, FlagValue):
            entry = Given(key, value.value, origin, f"flag {value.flag}")
        else:
            entry = Given(key, value, origin, where)
        if key in SECTIONS:
            faults.append(f"{entry}: must be a section with settings in it")
        elif key in OPTIONS:
            given[key] = entry
        else:
            faults.append(f"{key} is not a setting ({entry.where})" + _suggestion(key, [*OPTIONS, *SECTIONS]))
    return Layer(given, tuple(faults))


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = prefix + name
        if isinstance(value, Mapping) and key in SECTIONS:
            yield from _flat(value, f"{key}.")
        elif value is not None:
            yield key, value


def _suggestion(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _read_toml(file: Path) -> Mapping[str, Any]:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}: must be UTF-8 text (at line {line})") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: not valid TOML: nested too deeply") from None


def _from_text(text: str, option: Option) -> Any:
    """The variable's text in the option's type; text that does not fit is left for validation to refuse."""
    kind = option.field.annotation
    if get_origin(kind) is tuple:
        return _list_from_text(text)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text) if kind in {int, float} else text
    except ValueError:
        return text


def _list_from_text(text: str) -> list[Any]:
    # An opening bracket proves nothing: it may be JSON, or the first of some IPv6 addresses.
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    return items if isinstance(items, list) else [part.strip() for part in text.split(",")]
