"""llama.cpp's grammar notation: rules by name, literals, and numbers written as digits."""

import json
import re
from typing import Any

MOST_TIMES = 2000
"""The highest number of repetitions that llama.cpp writes out."""

MOST_PARTS = 50_000
"""How large a grammar may become; a schema that names a part twice, which names another twice, has no end."""

MOST_CHARS = 2**21
"""Of a grammar as text; llama.cpp takes many times as much memory for it."""

MOST_ALTERNATIVES = 2000
"""What may be said at one place; llama.cpp goes through all of it for each token."""

MOST_DIGITS = 20
"""Digits of a number without bounds; 64 bits have room in it, and a model cannot write zeros for ever."""

COMMA = '"," space'
"""Every grammar has the rule ``space``."""

_BUILTIN = {
    "space": '" "?',
    "char": r'[^"\\\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" char* "\""',
    "integer": f'"-"? ("0" | [1-9] [0-9]{{0,{MOST_DIGITS - 1}}})',
    "number": f'integer ("." [0-9]{{1,{MOST_DIGITS}}})? ([eE] [-+]? [0-9]{{1,3}})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "pair": 'string ":" space value',
    "object": '"{" space (pair ("," space pair)* space)? "}"',
    "array": '"[" space (value ("," space value)* space)? "]"',
    "value": "object | array | string | number | boolean | null",
}
_ALTERNATIVES = re.compile(r"[\w-]+(?: \| [\w-]+)*")
_JSON_SIGNS = re.compile(r"\\u[0-9a-f]{4}|\\.|.", re.DOTALL)
_WORDS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[a-z]{3,}')


class TooMuch(ValueError):
    """What was asked for has no grammar of a reasonable size."""


class Rules:
    """The rules of one grammar. Equal bodies are one rule."""

    def __init__(self) -> None:
        self._bodies = {"space": _BUILTIN["space"]}
        self._names: dict[str, str] = {}
        self._parts = 0

    def spend(self, parts: int) -> None:
        """Count what is built. Raises TooMuch beyond MOST_PARTS."""
        self._parts += parts
        if self._parts > MOST_PARTS:
            raise TooMuch("it is too large")

    def add(self, body: str) -> str:
        """The name of a rule with this body."""
        if body in self._bodies:
            return body
        if body not in self._names:
            self._names[body] = self.reserve()
            self.define(self._names[body], body)
        return self._names[body]

    def reserve(self) -> str:
        """A name whose body is still to come, as in rules that call themselves."""
        self.spend(1)
        name = f"r{len(self._bodies)}"
        self._bodies[name] = '""'
        return name

    def define(self, name: str, body: str) -> None:
        """Give the rule ``name`` its body."""
        self._bodies[name] = body

    def builtin(self, name: str) -> str:
        """``name`` itself, which stands for any JSON of that kind from now on."""
        if name not in self._bodies:
            self._bodies[name] = _BUILTIN[name]
            for word in _WORDS.findall(_BUILTIN[name]):
                if word in _BUILTIN:
                    self.builtin(word)
        return name

    def either(self, bodies: list[str]) -> str:
        """The name of a rule for any of ``bodies``."""
        return self.add(" | ".join(dict.fromkeys(bodies)))

    def repeated(self, name: str, low: int, high: int | None) -> str:
        """Text for ``low`` to ``high`` times the rule ``name``; more than MOST_TIMES is without a limit."""
        if high is None or high > MOST_TIMES:
            self.spend(low)
            return f"{name}{{{low},}}"
        self.spend(high)
        return f"{name}{{{low},{high}}}"

    def listed(self, name: str, low: int, high: int | None) -> str:
        """Text for ``low`` to ``high`` times the rule ``name`` with commas between."""
        if high == 0:
            return ""
        further = self.add(f"{COMMA} {name}")
        rest = self.repeated(further, max(low - 1, 0), None if high is None else high - 1)
        # Behind a bracket, llama.cpp counts all repetitions within it against its limit once more.
        return f"{name} {rest}" if low else f"{self.add(f'{name} {rest}')}?"

    def text(self, root: str) -> str:
        """The grammar that begins with the rule ``root``.

        Raises:
            TooMuch: it is longer, or has more alternatives, than llama.cpp can follow.
        """
        known: dict[str, int] = {}
        if any(self._alternatives(name, known) > MOST_ALTERNATIVES for name in self._bodies):
            raise TooMuch("its alternatives are too many, or nested without an end in sight")
        text = "\n".join(f"{name} ::= {body}" for name, body in {"root": root, **self._bodies}.items())
        if len(text) > MOST_CHARS:
            raise TooMuch("it is too large")
        return text

    def _alternatives(self, name: str, known: dict[str, int]) -> int:
        if name not in known:
            body = self._bodies[name]
            known[name] = MOST_ALTERNATIVES + 1  # what it stays at if it leads back to itself
            parts = body.split(" | ")
            named = parts if _ALTERNATIVES.fullmatch(body) else []
            known[name] = sum(self._alternatives(part, known) for part in named) if named else len(parts)
        return known[name]


def literal(text: str) -> str:
    """``text`` itself, which must have no control characters."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def constant(value: object) -> str:
    """``value`` as JSON without spaces."""
    return literal(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def integers(low: int | None, high: int | None) -> str:
    """Text for the integers from ``low`` to ``high``, both included; None: without a limit."""
    parts = []
    if low is None or low < 0:
        nearest = 1 if high is None or high >= 0 else -high
        parts.append(f'"-" ({_naturals(nearest, None if low is None else -low)})')
    if high is None or high >= 0:
        parts.append(_naturals(max(low or 0, 0), high))
    return " | ".join(parts)


def _naturals(low: int, high: int | None) -> str:
    if high is None:
        length = len(str(low))
        longer = f"[1-9] [0-9]{{{length},{max(length, MOST_DIGITS - 1)}}}"
        return f"{_same_length(str(low), '9' * length)} | {longer}"
    lengths = range(len(str(low)), len(str(high)) + 1)
    bounds = [
        (max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)) for length in lengths
    ]
    return " | ".join(_same_length(str(first), str(last)) for first, last in bounds)


def _same_length(low: str, high: str) -> str:
    """The numbers from ``low`` to ``high``, which have equally many digits."""
    if low == high:
        return f'"{low}"'
    rest = len(low) - 1
    if low[0] == high[0]:
        return f'"{low[0]}" ({_same_length(low[1:], high[1:])})'
    first, last = int(low[0]), int(high[0])
    parts = []
    if rest and low[1:] != "0" * rest:
        parts.append(f'"{first}" ({_same_length(low[1:], "9" * rest)})')
        first += 1
    if rest and high[1:] != "9" * rest:
        parts.append(f'"{last}" ({_same_length("0" * rest, high[1:])})')
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f" [0-9]{{{rest}}}" if rest else ""))
    return " | ".join(parts)


def other_keys(rules: Rules, names: list[str]) -> str:
    """The name of a rule for JSON strings that are none of ``names``."""
    if not names:
        return rules.builtin("string")
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for sign in _JSON_SIGNS.findall(json.dumps(name, ensure_ascii=False)[1:-1]):
            rules.spend(1)
            node = node.setdefault(sign, {})
        node[""] = {}
    return rules.add(rf'"\"" {_other_ends(rules, tree)}')


def _other_ends(rules: Rules, node: dict[str, Any]) -> str:
    """A rule for the rest of a key, with its closing quote, that is none of the rests in ``node``."""
    rules.builtin("char")
    signs = [sign for sign in node if sign]
    excluded = "".join(f"\\U{ord(sign):08X}" for sign in signs if len(sign) == 1)
    ends = [f"{literal(sign)} {_other_ends(rules, node[sign])}" for sign in signs]
    ends.append(rf'[^"\\\x00-\x1F{excluded}] char* "\""')
    return rules.add(" | ".join(ends if "" in node else [*ends, r'"\""']))
