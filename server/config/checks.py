"""What single values of the settings must be; a ValueError says it to whoever wrote them."""

import re
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from server.config.durations import format_duration, parse_duration

MOST_TOKENS = 1_048_576

REMOTE_ABILITIES = ("tools", "thinking", "insert")
"""In Ollama's words."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_MODEL_NAME = re.compile(
    r"([a-z]+://)?(([A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}/)?[A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?"
    rf"{_PART}(:{_PART})?"
)


def check_model_name(name: str) -> str:
    """A name, with or without host, namespace and tag."""
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError("must be a model name, such as qwen3:1.7b or namespace/model:tag")
    return name


def check_abilities(abilities: tuple[str, ...]) -> tuple[str, ...]:
    """Abilities of a model that runs elsewhere, each once."""
    wrong = [ability for ability in abilities if ability not in REMOTE_ABILITIES]
    if wrong:
        raise ValueError(f'must hold only {", ".join(REMOTE_ABILITIES)}, and "{wrong[0]}" is none of them')
    return tuple(dict.fromkeys(abilities))


def check_keep_alive(value: Any) -> str:
    """A duration, as text."""
    try:
        seconds = parse_duration(value)
    except (TypeError, ValueError):
        raise ValueError(
            'must be a duration such as "5m" or "1h30m", a number of seconds, or negative to stay loaded'
        ) from None
    return value if isinstance(value, str) else format_duration(seconds)


def check_path(value: Any) -> Any:
    """The path of a file that there must be."""
    # An empty text would become the path ".", and a zero byte fails only when the file is opened.
    if isinstance(value, str | Path) and (str(value) in {"", "."} or "\0" in str(value)):
        raise ValueError("must be the path of a GGUF file")
    return value


def folder_or_unset(value: Any) -> Any:
    """A folder, or nothing."""
    return _path_or_unset(value, "folder")


def file_or_unset(value: Any) -> Any:
    """A file, or nothing."""
    return _path_or_unset(value, "file")


def _path_or_unset(value: Any, kind: str) -> Any:
    if value == "":
        return None
    if isinstance(value, str | Path) and "\0" in str(value):
        raise ValueError(f"must be the path of a {kind}")
    return value


def conflict(key: str, rule: str, other: str) -> PydanticCustomError:
    """A fault between two settings of a section, in parts: the loader adds where each value came from."""
    return PydanticCustomError("conflict", "{key} {rule} {other}", {"key": key, "rule": rule, "other": other})
