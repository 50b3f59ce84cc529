"""What an answer's form may be: JSON schemas turned into llama.cpp's grammars."""

import json
import math
import re
from typing import Any
from urllib.parse import unquote

from llama_cpp.llama_grammar import SchemaConverter

from server.domain.chat import JsonObject
from server.domain.errors import InvalidRequest

ANY_OBJECT = {"type": "object"}
ANY_VALUE = {"type": "value"}
"""The converter's own word for whatever JSON there is."""

MOST_OPTIONAL_TIMES = 900
"""Optional repetitions are written as nested brackets; llama.cpp takes 1000 levels of them, and
tens of thousands overflow its stack, which ends the process."""

MOST_TIMES = 2000
"""What llama.cpp itself takes as the least number of repetitions."""

MOST_VISITS = 20_000
"""Parts that a schema may have; one that names a part twice, which names another twice, grows without end."""

MOST_WALKS = 100_000
"""llama.cpp looks for left recursion on every path through nested alternatives, a million paths a second."""

_SHOWN_CHARS = 300
_UNIONS = ("anyOf", "oneOf")
_STRUCTURE = {"type", "$ref", "const", "enum", "properties", "additionalProperties", "items", "prefixItems"}
_STRUCTURE |= {"pattern", "format", "allOf", *_UNIONS}
_ALIAS_RULE = re.compile(r"[\w-]+(?: \| [\w-]+)*")
_PATTERN_PARTS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{[^}]*\}", re.DOTALL)
_GROUP_REPEATED = re.compile(r"\)(?:\{([^}]*)\}|[*+?])")


def grammar_of(form: str | JsonObject | None) -> str | None:
    """GBNF for ``json`` or for a JSON schema; None for no constraint.

    An upper limit of more than MOST_OPTIONAL_TIMES characters or items is no limit, as in llama.cpp.

    Raises:
        InvalidRequest: it is neither, or a schema that cannot be converted.
    """
    if form is None or form == "":
        return None
    if form == "json":
        return _convert(ANY_OBJECT)
    if isinstance(form, str):
        raise InvalidRequest(
            f'invalid format: {json.dumps(form)}; expected "json" or a valid JSON Schema object'
        )
    return _convert(dict(form))


class _References(dict[str, Any]):
    """Finds what a ``$ref`` means when it is asked for."""

    def __init__(self, root: Any) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, ref: str) -> Any:
        if not ref.startswith("#"):
            raise ValueError(f"$ref {ref}: only what is in the schema itself can be named")
        target = self._root
        for step in ref.split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(key)] if isinstance(target, list) else target[key]
            except (LookupError, TypeError, ValueError) as error:
                raise ValueError(f"$ref {ref} leads nowhere") from error
        return target


class _Converter(SchemaConverter):
    """llama-cpp-python's converter, kept from what would make it, or llama.cpp behind it, hang or crash."""

    def __init__(self, root: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False
        )
        # The inherited search for them stops at the first $ref, and so at recursive models' root.
        self._refs = _References(root)
        self._visits = 0
        self._names: dict[str, str] = {}

    def visit(self, schema: Any, name: str) -> Any:
        """Convert one part of the schema."""
        self._visits += 1
        if self._visits > MOST_VISITS:
            raise ValueError("it is too large")
        return super().visit(_tamed(schema, is_root=not name), name)  # type: ignore[no-untyped-call]

    def _format_literal(self, literal: str) -> str:
        # The inherited one leaves backslashes, which are GBNF's own escapes, as they are.
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def _resolve_ref(self, ref: str) -> str:
        # The inherited one takes a property's rule for the definition of the same name.
        if ref not in self._names:
            self._names[ref] = f"ref-{len(self._names)}"
            self._names[ref] = self.visit(self._refs[ref], self._names[ref])
        return self._names[ref]

    def check(self) -> None:
        """Raise ValueError where llama.cpp would look for left recursion for ever."""
        walks: dict[str, int] = {}
        for name in self._rules:
            if self._walks(name, walks) > MOST_WALKS:
                raise ValueError("its alternatives are nested without an end in sight")

    def _walks(self, name: str, known: dict[str, int]) -> int:
        if name not in known:
            rule = self._rules.get(name, "")
            known[name] = MOST_WALKS + 1  # what it stays at if it leads back to itself
            alternatives = rule.split(" | ") if _ALIAS_RULE.fullmatch(rule) else []
            known[name] = 1 + sum(self._walks(alternative, known) for alternative in alternatives)
        return known[name]


def _convert(schema: dict[str, Any]) -> str:
    try:
        plain = json.loads(json.dumps(schema))
        converter = _Converter(plain)
        converter.visit(plain, "")
        converter.check()
        grammar = str(converter.format_grammar())  # type: ignore[no-untyped-call]
        grammar.encode()
    except RecursionError as error:
        raise InvalidRequest("invalid format: the JSON schema is nested too deeply") from error
    # The converter has no error type of its own: it stumbles over whatever it meets.
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, AssertionError) as error:
        reason = str(error)[:_SHOWN_CHARS]
        raise InvalidRequest(f"invalid format: the JSON schema cannot be converted: {reason}") from error
    return grammar


def _tamed(schema: Any, *, is_root: bool) -> Any:
    """``schema``, or its like in words that the converter knows."""
    if schema is True:
        return ANY_VALUE
    if not isinstance(schema, dict):
        raise TypeError(f"{json.dumps(schema)} is no schema")
    if not _STRUCTURE & schema.keys():
        return ANY_OBJECT if is_root else ANY_VALUE
    if not all(schema[key] for key in ("type", "enum", *_UNIONS) if key in schema):
        raise ValueError("an empty list of alternatives allows nothing")
    if isinstance(schema.get("pattern"), str):
        _check_pattern(schema["pattern"])
    if schema.get("items") in ({}, True):
        schema = {**schema, "items": ANY_VALUE}
    for least, most in (("minLength", "maxLength"), ("minItems", "maxItems")):
        schema = _limited(schema, least, most)
    return schema


def _limited(schema: dict[str, Any], least: str, most: str) -> dict[str, Any]:
    low, high = schema.get(least, 0), schema.get(most)
    if low > MOST_TIMES:
        raise ValueError(f"{least} is more than {MOST_TIMES}")
    if high is None or high - low <= MOST_OPTIONAL_TIMES:
        return schema
    unlimited = {key: value for key, value in schema.items() if key != most}
    return {least: 0, **unlimited}


def _check_pattern(pattern: str) -> None:
    """Raise ValueError for a pattern over which the converter or llama.cpp would hang or crash."""
    if {"]", "}"} & set(_PATTERN_PARTS.sub("", pattern)):
        raise ValueError(f"a bracket in /{pattern}/ is not escaped")
    times = [_most(part) for part in _PATTERN_PARTS.findall(pattern) if part.startswith("{")]
    groups = [max(2, _most(part)) for part in _GROUP_REPEATED.findall(pattern)]
    if max(times, default=0) > MOST_OPTIONAL_TIMES or math.prod(groups) > MOST_WALKS:
        raise ValueError(f"/{pattern}/ repeats too much")


def _most(quantifier: str) -> int:
    return max((int(number) for number in quantifier.strip("{}").split(",") if number.strip()), default=0)
