"""The arguments of a tool call, handed on while the model still writes them.

A file that is written through a tool takes minutes: whoever waits for it wants to see it come.
"""

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any

from server.chat.fit import fitted, json_of
from server.domain.chat import JsonObject

_BLANKS = re.compile(r"\s*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CERTAIN = re.compile(
    r'(?:[^"\\]+|\\[^u]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?=[^\\]|\\[^u])))*"
)
"""Text of a string up to an escape that is not complete; both halves of a character beyond U+FFFF count
as one."""

_LONGEST_ESCAPE = 12
_STEP = re.compile(r'[^"\[\]{},]+|[\[\]{},]|"(?:[^"\\]|\\.)*"', re.DOTALL)
_PAIRS = {"{": "}", "[": "]"}


class _Place(Enum):
    OBJECT = auto()
    KEY = auto()
    VALUE = auto()
    TEXT = auto()
    OTHER = auto()
    BEHIND = auto()
    END = auto()


class LiveCall:
    """A call of the tool ``name`` that is being written. ``start`` is where its arguments begin."""

    def __init__(self, name: str, schema: JsonObject, start: int, call_id: str) -> None:
        self.name = name
        self.id = call_id
        self._stream = ArgumentStream(schema)
        self._read = start

    def feed(self, raw: str) -> str:
        """More of the arguments; ``raw`` is all of the text from the beginning."""
        fresh, self._read = raw[self._read :], len(raw)
        return self._stream.feed(fresh)

    def rest(self, arguments: JsonObject) -> str:
        """What is missing now that the arguments are known."""
        whole, written = written_out(arguments), self._stream.written
        # A key that stands there twice is known once: then only the end is missing.
        return whole[len(written) :] if whole.startswith(written) else "}"


def written_out(arguments: JsonObject) -> str:
    """Arguments as text."""
    return json.dumps(dict(arguments), ensure_ascii=False)


class ArgumentStream:
    """Turns the text of a JSON object, in pieces of any size, into the same object as ``json.dumps`` writes
    it, with values of the types that ``schema`` asks for.

    Text whose schema says that it is text comes as it is written, other values when they are complete. At
    what is no JSON it falls silent: the end is then up to who reads the whole.
    """

    def __init__(self, schema: JsonObject) -> None:
        self._properties: Any = schema.get("properties")
        self._raw = ""
        self._at = 0
        self._place = _Place.OBJECT
        self._key = ""
        self._keys = 0
        self._value_start = 0
        self._open = ""
        self.written = ""
        self._steps: Mapping[_Place, Callable[[], bool]] = {
            _Place.OBJECT: lambda: self._pass("{", _Place.KEY, "{"),
            _Place.KEY: self._read_key,
            _Place.VALUE: self._begin_value,
            _Place.TEXT: self._read_text,
            _Place.OTHER: self._read_other,
            _Place.BEHIND: lambda: self._pass(",", _Place.KEY, ""),
            _Place.END: lambda: False,
        }

    def feed(self, text: str) -> str:
        """What is certain now."""
        self._raw += text
        before = len(self.written)
        try:
            while self._advance():
                pass
        except ValueError:
            self._place = _Place.END
        return self.written[before:]

    def _advance(self) -> bool:
        """One step; False when more text is needed."""
        return self._steps[self._place]()

    def _next(self) -> str:
        """The next character that is no blank; empty if there is none yet."""
        blanks = _BLANKS.match(self._raw, self._at)
        self._at = blanks.end() if blanks else self._at
        return self._raw[self._at : self._at + 1]

    def _pass(self, wanted: str, then: _Place, written: str) -> bool:
        found = self._next()
        if not found:
            return False
        if found != wanted:
            # The object's end as well: its last bracket is written by who has seen it.
            self._place = _Place.END
            return False
        self._at += 1
        self._place = then
        self.written += written
        return True

    def _read_key(self) -> bool:
        found = self._next()
        if found not in ("", '"'):
            self._place = _Place.END
            return False
        key = _STRING.match(self._raw, self._at)
        if key is None:
            return False
        colon = _BLANKS.match(self._raw, key.end())
        behind = colon.end() if colon else key.end()
        if behind == len(self._raw):
            return False
        if self._raw[behind] != ":":
            raise ValueError(f"{self._raw[behind]} behind a key")
        self._key, self._at, self._place = json_of(key[0]), behind + 1, _Place.VALUE
        return True

    def _begin_value(self) -> bool:
        found = self._next()
        if not found:
            return False
        self._write_key()
        self._value_start = self._at
        if found == '"' and self._schema().get("type") == "string":
            self._at += 1
            self.written += '"'
            self._place = _Place.TEXT
        else:
            self._place = _Place.OTHER
        return True

    def _write_key(self) -> None:
        comma = ", " if self._keys else ""
        self._keys += 1
        self.written += f"{comma}{json.dumps(self._key, ensure_ascii=False)}: "

    def _schema(self) -> JsonObject:
        found = self._properties.get(self._key) if isinstance(self._properties, dict) else None
        return found if isinstance(found, dict) else {}

    def _read_text(self) -> bool:
        certain = _CERTAIN.match(self._raw, self._at)
        end = certain.end() if certain else self._at
        plain = json_of(f'"{self._raw[self._at : end]}"')
        self.written += json.dumps(plain, ensure_ascii=False)[1:-1]
        self._at = end
        if self._raw[end : end + 1] == '"':
            self.written += '"'
            self._at, self._place = end + 1, _Place.BEHIND
            return True
        if len(self._raw) - end > _LONGEST_ESCAPE:
            raise ValueError("no escape of JSON")
        return False

    def _read_other(self) -> bool:
        while True:
            step = _STEP.match(self._raw, self._at)
            if step is None:
                return False
            if not self._open and step[0] in (",", "}"):
                self._write_other()
                return True
            if step[0] in _PAIRS:
                self._open += _PAIRS[step[0]]
            elif step[0] in ("]", "}"):
                if not self._open.endswith(step[0]):
                    raise ValueError("brackets do not match")
                self._open = self._open[:-1]
            self._at = step.end()

    def _write_other(self) -> None:
        value = fitted(json_of(self._raw[self._value_start : self._at]), self._schema())
        self.written += json.dumps(value, ensure_ascii=False)
        self._place = _Place.BEHIND
