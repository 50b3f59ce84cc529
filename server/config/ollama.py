"""Ollama's own environment variables, for those who come from there.

They are weaker than a configuration file: one that is set for another program must not undo what somebody
has written down for this one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from server.config.sources import Given, Layer, Origin

OLLAMAS_PORT = 11434
_NO = ("0", "false", "f", "no", "off")


@dataclass(frozen=True, slots=True)
class _Variable:
    """Which settings it stands for, and how its text reads; None: as if it were not set."""

    keys: tuple[str, ...]
    read: Callable[[str], Any]


def from_ollama(environ: Mapping[str, str]) -> Layer:
    """The options that Ollama's variables set."""
    return Layer({entry[0]: entry[1] for entry in _given(environ)})


def _given(environ: Mapping[str, str]) -> Iterator[tuple[str, Given]]:
    for name, variable in VARIABLES.items():
        text = environ.get(name, "").strip(" \t\"'")
        value = variable.read(text) if text else None
        if value is not None:
            for key in variable.keys:
                yield key, Given(name, value, Origin.ENVIRONMENT, "environment")


def _address(text: str) -> list[str]:
    """``host``, ``host:port``, ``:port`` or a URL."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    host, colon, port = parts.netloc.rpartition(":")
    if not colon or "]" in port:
        host, port = parts.netloc, str({"http": OLLAMAS_PORT, "https": 443}.get(parts.scheme, OLLAMAS_PORT))
    return [f"{host or '127.0.0.1'}:{port}"]


def _list(text: str) -> list[str]:
    return [part for part in (part.strip(" \t\"'") for part in text.split(",")) if part]


def _number(text: str) -> int | str | None:
    """Zero is Ollama's "as you like"; what is no number is left for validation to refuse."""
    try:
        return int(text) or None
    except ValueError:
        return text


def _limit(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _on_or_off(text: str) -> str:
    return "off" if text.casefold() in _NO else "on"


def _log_level(text: str) -> str | None:
    return None if text.casefold() in _NO else "debug"


VARIABLES: Mapping[str, _Variable] = {
    "OLLAMA_HOST": _Variable(("listen",), _address),
    "OLLAMA_ORIGINS": _Variable(("origins",), _list),
    "OLLAMA_KEEP_ALIVE": _Variable(("keep_alive", "generator.keep_alive", "helper.keep_alive"), str),
    "OLLAMA_CONTEXT_LENGTH": _Variable(("generator.context",), _number),
    "OLLAMA_NUM_PARALLEL": _Variable(("generator.slots", "helper.slots"), _number),
    "OLLAMA_MAX_QUEUE": _Variable(("generator.queue", "helper.queue"), _limit),
    "OLLAMA_FLASH_ATTENTION": _Variable(("generator.flash_attention", "helper.flash_attention"), _on_or_off),
    "OLLAMA_KV_CACHE_TYPE": _Variable(("generator.kv_type", "helper.kv_type"), str),
    "OLLAMA_DEBUG": _Variable(("log_level",), _log_level),
}
