"""Durations as Ollama's keep_alive has them: Go's notation, or seconds; negative is for ever."""

import math
import re
from types import MappingProxyType

LONGEST_S = float(2**63) / 1e9
"""The longest time that Go can hold, about 292 years; anything above counts as for ever."""

_UNITS_S = MappingProxyType(
    {
        "ns": 1e-9,
        "us": 1e-6,
        "\u00b5s": 1e-6,  # the micro sign
        "\u03bcs": 1e-6,  # the Greek letter, which keyboards also give
        "ms": 1e-3,
        "s": 1.0,
        "m": 60.0,
        "h": 3600.0,
    }
)
_GO_TYPES = MappingProxyType(
    {list: "[]interface {}", dict: "map[string]interface {}", type(None): "%!s(<nil>)"}
)
_PLAIN_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)")
_TERM = re.compile(r"([0-9]*\.?[0-9]*)([^0-9.]*)")
_NS_PER_S = 10**9
_MOST_QUOTED = 200


def parse_duration(value: str | int | float) -> float:
    """Seconds; infinity for a negative duration or one too long to count.

    A number without a unit is in seconds, in a string too, which Go would refuse.
    """
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"Unsupported type: '{_GO_TYPES.get(type(value), type(value).__name__)}'")
    # The comparison comes first: a very large int has no float.
    if value < 0 or value >= LONGEST_S:
        return math.inf
    if math.isnan(value):
        raise ValueError('time: invalid duration "nan"')
    return float(value)


def format_duration(seconds: float) -> str:
    """Go's text, such as ``5m0s``; ``-1`` for ever."""
    if math.isnan(seconds):
        raise ValueError("nan is not a duration")
    if seconds < 0 or seconds >= LONGEST_S:
        return "-1"
    ns = round(seconds * _NS_PER_S)
    if ns == 0:
        return "0s"
    if ns < _NS_PER_S:
        unit, size = next(
            (unit, size) for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)) if ns >= size
        )
        return _decimal(ns, size) + unit
    minutes, rest_ns = divmod(ns, 60 * _NS_PER_S)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(rest_ns, _NS_PER_S) + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _parse_text(text: str) -> float:
    if _PLAIN_NUMBER.fullmatch(text):
        return parse_duration(float(text))
    negative = text.startswith("-")
    terms = text[1:] if text[:1] in {"-", "+"} else text
    if not terms:
        raise ValueError(f"time: invalid duration {_quoted(text)}")
    total_s = _sum_of_terms(terms, text)
    return parse_duration(-total_s if negative else total_s)


def _sum_of_terms(terms: str, whole: str) -> float:
    total_s = 0.0
    position = 0
    while position < len(terms):
        term = _TERM.match(terms, position)
        if term is None or term[1] in {"", "."}:
            raise ValueError(f"time: invalid duration {_quoted(whole)}")
        if not term[2]:
            raise ValueError(f"time: missing unit in duration {_quoted(whole)}")
        if term[2] not in _UNITS_S:
            raise ValueError(f"time: unknown unit {_quoted(term[2])} in duration {_quoted(whole)}")
        total_s += float(term[1]) * _UNITS_S[term[2]]
        position = term.end()
    return total_s


def _decimal(count: int, size: int) -> str:
    whole, part = divmod(count, size)
    if not part:
        return str(whole)
    return f"{whole}.{part:0{len(str(size)) - 1}d}".rstrip("0")


def _quoted(text: str) -> str:
    """Go's own quoting of a bad duration, or of its beginning: bytes outside ASCII become ``\\xNN``."""
    return '"' + "".join(_quoted_char(char) for char in text[:_MOST_QUOTED]) + '"'


def _quoted_char(char: str) -> str:
    if char in {'"', "\\"}:
        return "\\" + char
    if " " <= char < "\x80":
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
