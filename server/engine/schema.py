"""JSON schemas as rules of a grammar.

What no grammar can express is refused, with its place. Passed over, as llama.cpp does: bounds of numbers
that are no integers, ``multipleOf``, ``uniqueItems``, formats not listed here, lengths beside a pattern or
such a format, and that ``oneOf`` wants one match only. As there, objects have the properties that are listed,
in that order, those required first, and others only where ``additionalProperties`` allows them or none is
listed.
"""

import functools
import itertools
import json
import math
from typing import Any, NoReturn
from urllib.parse import unquote

from server.domain.chat import JsonObject
from server.domain.errors import InvalidRequest
from server.engine.gbnf import COMMA, MOST_TIMES, Rules, constant, integers, other_keys
from server.engine.merge import COMBINERS, Contradiction, is_number, merged, same
from server.engine.pattern import pattern_rule

_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_DATE = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "email": r"^[\w'+-]+(\.[\w'+-]+)*@([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]+$",
    **dict.fromkeys(("uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5"), _UUID),
}
_OBJECT = ("properties", "required", "additionalProperties", "patternProperties", "propertyNames")
_NOT_EXPRESSIBLE = (
    "not",
    "if",
    "contains",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "$dynamicRef",
)
_KIND_BY_WORD = {
    **dict.fromkeys((*_OBJECT, "minProperties", "maxProperties"), "object"),
    **dict.fromkeys(("items", "prefixItems", "additionalItems", "minItems", "maxItems"), "array"),
    **dict.fromkeys(("pattern", "format", "minLength", "maxLength"), "string"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), "number"),
}
_PLAIN = {*_KIND_BY_WORD, *_NOT_EXPRESSIBLE, "type", "enum", "const"}
_SHOWN_CHARS = 300
_DIGITS_PER_PART = 100

Part = tuple[Any, str]
"""A schema and its place."""


def schema_grammar(schema: JsonObject) -> str:
    """GBNF for the JSON that ``schema`` describes; a schema without a demand is one for any object.

    Raises:
        InvalidRequest: it is no schema, contradicts itself, or cannot be expressed.
        ValueError: it is too large, or its alternatives are nested without an end.
        RecursionError: it is nested too deeply.
    """
    return _Converter(schema).grammar()


class _Converter:
    """Turns each part of one schema into the name of a rule."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._rules = Rules()
        self._references: dict[str, str] = {}
        self._awaited: list[tuple[str, Part]] = []
        self._combinations: dict[str, str] = {}

    def grammar(self) -> str:
        """The whole grammar."""
        demands = self._root.keys() & {*_PLAIN, *COMBINERS}
        root = self._rule(self._root if demands else {"type": "object"}, "#")
        while self._awaited:
            name, (target, place) = self._awaited.pop()
            self._rules.define(name, self._rule(target, place))
        return self._rules.text(root)

    def _rule(self, schema: Any, place: str) -> str:
        self._rules.spend(1)
        if schema is True:
            return self._rules.builtin("value")
        if not isinstance(schema, dict):
            _refuse(place, f"{json.dumps(schema)} is no schema that something can satisfy")
        plain = {word: schema[word] for word in schema if word in _PLAIN}
        groups = _groups(schema, place)
        if not groups:
            return self._plain_rule(plain, place)
        if plain or len(groups) > 1:
            return self._combination(plain, groups, place)
        if len(groups[0]) > 1:
            return self._rules.either([self._rule(part, where) for part, where in groups[0]])
        [[(part, where)]] = groups
        named = isinstance(part, dict) and part.keys() == {"$ref"}
        return self._reference(part["$ref"], where) if named else self._rule(part, where)

    def _reference(self, ref: Any, place: str) -> str:
        target = self._target(ref, place)
        if ref not in self._references:
            self._references[ref] = self._rules.reserve()
            self._awaited.append((self._references[ref], (target, ref)))
        return self._references[ref]

    def _target(self, ref: Any, place: str) -> Any:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            _refuse(
                place,
                f"$ref {json.dumps(ref)}: only what is in the schema itself can be named, as in #/$defs/a",
            )
        target: Any = self._root
        for step in ref.split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(key)] if isinstance(target, list) else target[key]
            except (LookupError, TypeError, ValueError):
                _refuse(place, f"$ref {ref} leads nowhere")
        return target

    def _combination(self, plain: JsonObject, groups: list[list[Part]], place: str) -> str:
        """A rule for ``plain`` together with one part out of each group."""
        key = json.dumps([plain, [[part for part, _ in group] for group in groups]], sort_keys=True)
        if key not in self._combinations:
            # A schema that contains itself comes by here again while its rule is being made.
            self._combinations[key] = self._rules.reserve()
            rules = []
            for choice in itertools.product(*groups):
                try:
                    rules.append(self._rule(functools.reduce(self._merged, choice, plain), place))
                except Contradiction:
                    continue
            if not rules:
                del self._combinations[key]
                raise Contradiction(_complaint(place, "nothing satisfies all that is demanded together"))
            self._rules.define(self._combinations[key], self._rules.either(rules))
        return self._combinations[key]

    def _merged(self, plain: JsonObject, part: Part) -> JsonObject:
        schema, place = part
        self._rules.spend(_weight(schema))
        if isinstance(schema, dict) and "$ref" in schema:
            rest = {word: value for word, value in schema.items() if word != "$ref"}
            schema = merged(rest, {"allOf": [self._target(schema["$ref"], place)]})
        if schema is not True and not isinstance(schema, dict):
            _refuse(place, f"{json.dumps(schema)} is no schema that something can satisfy")
        try:
            return merged(plain, {} if schema is True else schema)
        except ValueError as error:
            _refuse(place, f"{error} has two values that cannot be combined")

    def _plain_rule(self, schema: JsonObject, place: str) -> str:
        for word in _NOT_EXPRESSIBLE:
            if word in schema:
                _refuse(place, f"{word} cannot be expressed in a grammar")
        if "enum" in schema or "const" in schema:
            return self._rules.either([constant(value) for value in _constants(schema, place)])
        return self._rules.either([self._kind_rule(kind, schema, place) for kind in _kinds(schema, place)])

    def _kind_rule(self, kind: str, schema: JsonObject, place: str) -> str:
        match kind:
            case "object":
                return self._object(schema, place)
            case "array":
                return self._array(schema, place)
            case "string":
                return self._string(schema, place)
            case "integer":
                return self._integer(schema, place)
            case "number" | "boolean" | "null" | "value":
                return self._rules.builtin(kind)
        return _refuse(place, f"type {json.dumps(kind)} is unknown")

    def _integer(self, schema: JsonObject, place: str) -> str:
        low, high = _bound(schema, "Minimum", 1, place), _bound(schema, "Maximum", -1, place)
        if low is None and high is None:
            return self._rules.builtin("integer")
        if low is not None and high is not None and low > high:
            raise Contradiction(_complaint(place, f"minimum and maximum leave no integer: {low} to {high}"))
        # Each digit of a bound has a part of its own, with all digits behind it.
        digits = max(len(str(bound)) for bound in (low, high) if bound is not None)
        self._rules.spend(digits**2 // _DIGITS_PER_PART)
        return self._rules.add(integers(low, high))

    def _string(self, schema: JsonObject, place: str) -> str:
        name = schema.get("format", "")
        if not isinstance(name, str):
            _refuse(place, "format must be a string")
        if (pattern := self._pattern(schema, place)) is not None:
            return pattern
        if name in _FORMATS:
            return pattern_rule(self._rules, _FORMATS[name])
        low, high = _limits(schema, "Length", place)
        if low == 0 and high is None:
            return self._rules.builtin("string")
        characters = self._rules.repeated(self._rules.builtin("char"), low, high)
        return self._rules.add(rf'"\"" {characters} "\""')

    def _pattern(self, schema: JsonObject, place: str) -> str | None:
        if "pattern" not in schema:
            return None
        if not isinstance(schema["pattern"], str):
            _refuse(place, "pattern must be a string")
        try:
            return pattern_rule(self._rules, schema["pattern"])
        except ValueError as error:
            # Zod writes the pattern of its formats, such as email, beside them, with lookaheads.
            return None if schema.get("format") else _refuse(place, f"pattern {error}")

    def _array(self, schema: JsonObject, place: str) -> str:
        low, high = _limits(schema, "Items", place)
        first, further = _items(schema)
        if further is False and low > len(first):
            raise Contradiction(_complaint(place, "minItems demands more than items allows"))
        if not first:
            item = "" if further is False else self._rule(further, f"{place}/items")
            items = self._rules.listed(item, low, high) if item else ""
            return self._rules.add(f'"[" space {items} space "]"')
        low = low if "minItems" in schema else len(first)
        first = first if high is None else first[:high]
        text = self._further_items(further, len(first), low, high, place)
        for number, item in reversed(list(enumerate(first))):
            comma = COMMA if number else ""
            text = f"{comma} {self._rule(item, f'{place}/prefixItems/{number}')} {text}"
            text = text if number < low else f"{self._rules.add(text)}?"
        return self._rules.add(f'"[" space {text} space "]"')

    def _further_items(self, items: Any, behind: int, low: int, high: int | None, place: str) -> str:
        """What follows the items that are described one by one; without a word on it as much as must."""
        if items is False or (items is None and low <= behind):
            return ""
        item = self._rule(True if items is None else items, f"{place}/items")
        rest = None if high is None else high - behind
        return self._rules.repeated(self._rules.add(f"{COMMA} {item}"), max(low - behind, 0), rest)

    def _object(self, schema: JsonObject, place: str) -> str:
        properties, required = _properties(schema, place)
        others = self._other_pairs(schema, list(properties), place)
        low, high = _limits(schema, "Properties", place)
        if not properties:
            inner = self._rules.listed(self._rules.either(others), low, high) if others else ""
            return self._rules.add(f'"{{" space {inner} space "}}"')
        if low > len(required) or (high is not None and (others or high < len(properties))):
            _refuse(place, "minProperties and maxProperties cannot be expressed beside properties")
        pairs = {
            name: f'{constant(name)} ":" space {self._rule(value, f"{place}/properties/{name}")}'
            for name, value in properties.items()
        }
        given = [pair for name, pair in pairs.items() if name in required]
        text = f" {COMMA} ".join(given)
        tail = self._tail([pair for name, pair in pairs.items() if name not in required], others, place)
        if tail:
            text += f" ({COMMA} {tail})?" if given else f"{tail}?"
        return self._rules.add(f'"{{" space {text} space "}}"')

    def _tail(self, optional: list[str], others: list[str], place: str) -> str | None:
        """A rule for one or more of these pairs: each is followed by some of those behind it."""
        if len(optional) > MOST_TIMES:
            _refuse(place, f"properties has more than {MOST_TIMES} that are optional")
        tail = self._rules.add(self._rules.listed(self._rules.either(others), 1, None)) if others else None
        for pair in reversed(optional):
            tail = self._rules.add(f"{pair} ({COMMA} {tail})? | {tail}" if tail else pair)
        return tail

    def _other_pairs(self, schema: JsonObject, names: list[str], place: str) -> list[str]:
        """What may stand in an object besides ``names``."""
        patterns = schema.get("patternProperties", {})
        if not isinstance(patterns, dict):
            _refuse(place, "patternProperties must be an object")
        keys = [(self._string({"pattern": pattern}, place), patterns[pattern]) for pattern in patterns]
        additional = _additional(schema, place)
        if additional is not False:
            named = {"allOf": [{"type": "string"}, schema.get("propertyNames", True)]}
            key = self._rule(named, f"{place}/propertyNames") if "propertyNames" in schema else None
            keys.append((key or other_keys(self._rules, names), additional))
        return [self._rules.add(f'{key} ":" space {self._rule(value, place)}') for key, value in keys]


def _groups(schema: JsonObject, place: str) -> list[list[Part]]:
    """Schemas of which one out of each group has to be satisfied."""
    groups: list[list[Part]] = [[({"$ref": schema["$ref"]}, place)]] if "$ref" in schema else []
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            parts = schema[word]
            if not isinstance(parts, list) or not parts:
                _refuse(place, f"{word} must be a list of one schema or more")
            placed = [(part, f"{place}/{word}/{number}") for number, part in enumerate(parts)]
            groups += [group for part in placed for group in _all_of(*part)] if word == "allOf" else [placed]
    return groups


def _all_of(part: Any, place: str) -> list[list[Part]]:
    """The groups of one part of an ``allOf``, which is a group itself where it has demands of its own."""
    combines_only = isinstance(part, dict) and not part.keys() & _PLAIN
    return _groups(part, place) if combines_only else [[(part, place)]]


def _weight(schema: Any) -> int:
    """How much is to be gone through when it is put together with another one."""
    inner = schema.values() if isinstance(schema, dict) else ()
    return 1 + sum(len(value) for value in inner if isinstance(value, dict | list))


def _kinds(schema: JsonObject, place: str) -> list[str]:
    kinds = schema.get("type")
    if "type" not in schema:
        kinds = next((kind for word, kind in _KIND_BY_WORD.items() if word in schema), "value")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not kinds or not all(isinstance(kind, str) for kind in kinds):
        _refuse(place, f"type {json.dumps(schema['type'])} is unknown")
    return kinds


def _constants(schema: JsonObject, place: str) -> list[Any]:
    values = schema.get("enum", [schema.get("const")])
    if not isinstance(values, list) or not values:
        _refuse(place, "enum must be a list of one value or more")
    kinds = _kinds(schema, place) if "type" in schema else None
    if "const" in schema:
        values = [value for value in values if same(value, schema["const"])]
    values = [value for value in values if kinds is None or any(_is_a(kind, value) for kind in kinds)]
    if not values:
        raise Contradiction(_complaint(place, "no value of enum or const is of the type demanded"))
    return values


def _is_a(kind: str, value: Any) -> bool:
    match kind:
        case "integer":
            return is_number(value) and value == int(value)
        case "number":
            return is_number(value)
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value)) == kind


def _bound(schema: JsonObject, word: str, sign: int, place: str) -> int | None:
    """The least integer allowed; the greatest with a ``sign`` of -1 and ``word`` Maximum."""
    bound, beyond = schema.get(word.lower()), schema.get(f"exclusive{word}")
    if isinstance(beyond, bool):  # as in the schemas of draft 4 and OpenAPI 3.0
        bound, beyond = (None, bound) if beyond else (bound, None)
    for value in (bound, beyond):
        if value is not None and not is_number(value):
            _refuse(place, f"{word.lower()} and exclusive{word} must be numbers")
    least = [math.ceil(sign * bound)] if bound is not None else []
    least += [math.floor(sign * beyond) + 1] if beyond is not None else []
    return sign * max(least) if least else None


def _limits(schema: JsonObject, of: str, place: str) -> tuple[int, int | None]:
    """The values of ``minLength`` and ``maxLength``, where ``of`` is Length."""
    counts = {}
    for word in (f"min{of}", f"max{of}"):
        count = schema.get(word)
        if count is not None and (not is_number(count) or count != int(count) or count < 0):
            _refuse(place, f"{word} must be a natural number")
        counts[word] = None if count is None else int(count)
    low, high = counts[f"min{of}"] or 0, counts[f"max{of}"]
    if low > MOST_TIMES:
        _refuse(place, f"min{of} is more than {MOST_TIMES}")
    if high is not None and low > high:
        raise Contradiction(_complaint(place, f"min{of} is more than max{of}"))
    return low, high


def _items(schema: JsonObject) -> tuple[list[Any], Any]:
    """The schemas of the first items, and of those behind them; None where nothing is said of these."""
    if isinstance(schema.get("items"), list):  # as in the schemas of draft 7
        return schema["items"], schema.get("additionalItems")
    first = schema.get("prefixItems", [])
    return (first, schema.get("items")) if first else ([], schema.get("items", True))


def _properties(schema: JsonObject, place: str) -> tuple[JsonObject, set[str]]:
    """The schema of each property by its name, and the names of those that must be there."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict):
        _refuse(place, "properties must be an object")
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        _refuse(place, "required must be a list of names")
    undescribed = [name for name in required if name not in properties]
    if undescribed and schema.get("additionalProperties") is False:
        _refuse(place, f"required names {undescribed[0]}, which properties does not describe")
    others = dict.fromkeys(undescribed, schema.get("additionalProperties", True))
    return {**properties, **others}, set(required)


def _additional(schema: JsonObject, place: str) -> Any:
    listed = "properties" in schema or "patternProperties" in schema
    additional = schema.get("additionalProperties", not listed)
    if not isinstance(additional, bool | dict):
        _refuse(place, "additionalProperties must be true, false or a schema")
    return additional


def _complaint(place: str, reason: str) -> str:
    return f"invalid format: the JSON schema at {place[:_SHOWN_CHARS]}: {reason[:_SHOWN_CHARS]}"


def _refuse(place: str, reason: str) -> NoReturn:
    raise InvalidRequest(_complaint(place, reason))
