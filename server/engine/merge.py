"""What two JSON schemas demand together, as one schema. What is no schema is left for others to refuse."""

import json
from collections.abc import Callable
from typing import Any

from server.domain.chat import JsonObject
from server.domain.errors import InvalidRequest

COMBINERS = ("$ref", "allOf", "anyOf", "oneOf")

_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_INNER = ("additionalProperties", "propertyNames", "items", "additionalItems")
_NAMED = ("properties", "patternProperties")


class Contradiction(InvalidRequest):
    """No JSON satisfies all that is demanded."""


def merged(one: JsonObject, other: JsonObject) -> JsonObject:
    """One schema for both; whatever combines schemas stands under ``allOf`` in it.

    Raises:
        ValueError: a keyword has two values that cannot be one; the text names it.
        Contradiction: nothing satisfies both.
    """
    one, other = _without_const(one), _without_const(other)
    combiners = [*_combiners(one), *_combiners(other)]
    both = {word: value for word, value in {**one, **other}.items() if word not in COMBINERS}
    for word in both.keys() & one.keys() & other.keys():
        if not same(one[word], other[word]):
            both[word] = _joined(word, one[word], other[word])
    return {**both, "allOf": combiners} if combiners else both


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number of JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; to Python, True is 1."""
    return _written(one) == _written(other)


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _without_const(schema: JsonObject) -> JsonObject:
    if "const" not in schema:
        return schema
    rest = {word: value for word, value in schema.items() if word != "const"}
    values = [schema["const"]]
    return {**rest, "enum": _joined("enum", rest["enum"], values) if "enum" in rest else values}


def _combiners(schema: JsonObject) -> list[Any]:
    given = schema.get("allOf", [])
    listed = given if isinstance(given, list) else [given]
    return [*listed, *({word: schema[word]} for word in COMBINERS if word in schema and word != "allOf")]


def _joined(word: str, one: Any, other: Any) -> Any:
    if word in _LEAST or word in _MOST:
        return _tighter(max if word in _LEAST else min, one, other)
    if word in _INNER:
        return _inner(one, other)
    if word in _NAMED and isinstance(one, dict) and isinstance(other, dict):
        return {**one, **other, **{name: _inner(one[name], other[name]) for name in one if name in other}}
    if word == "required" and isinstance(one, list) and isinstance(other, list):
        return list({_written(name): name for name in (*one, *other)}.values())
    if word == "enum" and isinstance(one, list) and isinstance(other, list):
        others = {_written(value) for value in other}
        return _common([value for value in one if _written(value) in others])
    if word == "type":
        return _joined_types(one, other)
    raise ValueError(word)


def _tighter(choose: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
    if is_number(one) and is_number(other):
        return choose(one, other)
    return other if is_number(one) else one


def _inner(one: Any, other: Any) -> Any:
    if one is False or other is False:
        return False
    return one if same(one, other) else {"allOf": [one, other]}


def _joined_types(one: Any, other: Any) -> list[Any]:
    ones, others = (value if isinstance(value, list) else [value] for value in (one, other))
    pairs = [(mine, yours) for mine in ones for yours in others]
    integers = ["integer" for pair in pairs if sorted(map(str, pair)) == ["integer", "number"]]
    return _common(list(dict.fromkeys([*(str(mine) for mine in ones if mine in others), *integers])))


def _common(values: list[Any]) -> list[Any]:
    if not values:
        raise Contradiction("nothing satisfies all that is demanded together")
    return values
