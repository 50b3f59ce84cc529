"""What a form lets pass: the words of JSON schemas, one by one and together."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.engine.grammar import grammar_of
from tests.engine.matching import accepts, accepts_text


@pytest.mark.parametrize("form", [None, ""])
def test_no_constraint(form: str | None) -> None:
    assert grammar_of(form) is None


@pytest.mark.parametrize("document", [{}, {"a": 1}, {"a": [True, None, "x", {"b": -1.5}]}])
def test_json_is_any_object(document: Any) -> None:
    assert accepts("json", document)


def test_json_is_an_object() -> None:
    assert not accepts("json", [1])
    assert not accepts("json", "a")
    assert grammar_of({}) == grammar_of("json")
    assert grammar_of({"title": "Anything"}) == grammar_of("json")


PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"title": "Name", "type": "string"},
        "age": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "Age"},
        "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}, "maxItems": 2},
        "home": {"$ref": "#/$defs/Address"},
        "work": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}]},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
    "$defs": {
        "Address": {
            "type": "object",
            "properties": {"street": {"type": "string", "minLength": 2, "maxLength": 4}},
            "required": ["street"],
        }
    },
}
HOME = {"street": "abc"}


@pytest.mark.parametrize(
    "document",
    [
        {"name": "Ada", "age": 36, "home": HOME},
        {"name": "Ada", "age": None, "home": HOME},
        {"name": "Ada", "age": 36, "home": HOME, "kind": "b"},
        {"name": "Ada", "age": 36, "home": HOME, "kind": "a", "tags": [["x", "y"], []], "work": None},
        {"name": "Ada", "age": 36, "home": HOME, "work": HOME},
    ],
)
def test_what_pydantic_writes(document: Any) -> None:
    assert accepts(PERSON, document)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"name": "Ada", "age": 36},
        {"name": "Ada", "age": "36", "home": HOME},
        {"name": "Ada", "age": 1.5, "home": HOME},
        {"name": "Ada", "age": 36, "home": HOME, "kind": "c"},
        {"name": "Ada", "age": 36, "home": HOME, "tags": [[], [], []]},
        {"name": "Ada", "age": 36, "home": HOME, "tags": ["x"]},
        {"name": "Ada", "age": 36, "home": HOME, "more": 1},
        {"name": "Ada", "age": 36, "home": {"street": "a"}},
        {"name": "Ada", "age": 36, "home": {"street": "abcde"}},
        {"name": "Ada", "age": 36, "home": HOME, "work": {}},
    ],
)
def test_what_pydantic_does_not_allow(document: Any) -> None:
    assert not accepts(PERSON, document)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": ["string", "null"]}, [None, "a"], [1]),
        ({"const": {"a": [1]}}, [], [{"a": 1}]),
        ({"enum": ['say "a"', "C:\\new", "a\nb", "/"]}, ['say "a"', "C:\\new", "a\nb", "/"], ["C:\new"]),
        ({"properties": {'"\\é': {"const": 1}}}, [{'"\\é': 1}], [{"é": 1}]),
        ({"enum": ["é", 1, None, True]}, ["é", 1, None, True], ["e", False]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[]]),
        ({"type": "array", "minItems": 3, "items": {"enum": [1]}}, [[1, 1, 1], [1] * 4], [[1, 1]]),
        ({"type": "array", "items": {}}, [[], [1, "a", {"b": 2}]], [{}]),
        ({"type": "array", "items": True}, [[], [1, "a", {"b": 2}]], [{}]),
        ({"type": "array"}, [[], [1, [2]]], ["a"]),
        ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, [[1, "a"]], [["a", 1]]),
        ({"properties": {"any": {"title": "Any"}}}, [{"any": 1}, {"any": ["a"]}, {}], [1]),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            [{"a": 1, "b": 2}, {}],
            [{"a": "b"}],
        ),
        ({"type": "object", "additionalProperties": True}, [{"a": 1}], [1]),
        ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
        ({"type": "string", "pattern": "^[a-c]{2,3}-\\[x\\]$"}, ["ab-[x]", "abc-[x]"], ["a-[x]", "ab-x"]),
        ({"type": "string", "pattern": "^(ab|c)+$"}, ["ab", "cab"], ["", "ad"]),
        ({"type": "string", "format": "date"}, ["2024-02-29"], ["2024-13-01", "soon"]),
        ({"type": "string", "format": "email"}, ["a@b.c"], [1]),
        ({"allOf": [{"properties": {"a": {"type": "integer"}}}]}, [{"a": 1}], [{"a": "b"}]),
        ({"type": "boolean"}, [True, False], [None, 0]),
        ({"type": "number"}, [1, -2.5], ["1"]),
    ],
)
def test_what_clients_send(schema: Any, good: list[Any], bad: list[Any]) -> None:
    for document in good:
        assert accepts(schema, document), document
    for document in bad:
        assert not accepts(schema, document), document


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ['a\tb\n"\\/ü😀'], []),
        ({"const": None}, [None], [0]),
        ({"const": {"a": [1, {"b": 'ü"\\'}]}}, [{"a": [1, {"b": 'ü"\\'}]}], [{"a": [1]}]),
        ({"type": "string", "enum": ["a", 1]}, ["a"], [1]),
        ({"enum": [1, 2, True], "const": 1}, [1], [2, True]),
        ({"type": ["integer", "null"], "minimum": 3}, [3, None], [2, "a"]),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, [2], [1]),
        ({"type": "integer", "minimum": 0.5, "maximum": 2.5}, [1, 2], [0, 3]),
        ({"type": "number", "minimum": 5, "multipleOf": 5}, [1.25, 5e-324, -1e300], ["1"]),
        ({"type": "array", "uniqueItems": True, "items": {"const": 1}}, [[1, 1]], [[2]]),
        ({"type": "array", "maxItems": 0}, [[]], [[1]]),
        ({"type": "array", "items": False}, [[]], [[1]]),
        ({"items": [{"const": 1}, {"const": 2}], "additionalItems": {"const": 3}}, [[1, 2, 3, 3]], [[1, 3]]),
        ({"prefixItems": [{"const": 1}, {"const": 2}], "minItems": 1}, [[1], [1, 2]], [[], [1, 2, 3]]),
        ({"prefixItems": [{"const": 1}], "minItems": 3, "maxItems": 4}, [[1, 2, 3], [1, 2, 3, 4]], [[1, 2]]),
        ({"prefixItems": [{}, {}], "items": {"const": 1}, "maxItems": 3}, [[1, 2, 1]], [[1, 2, 1, 1]]),
        ({"required": ["a"]}, [{"a": 1}, {"a": 1, "b": 2}], [{}, {"b": 2}]),
        ({"required": ["a"], "additionalProperties": {"type": "null"}}, [{"a": None}], [{"a": 1}]),
        (
            {"type": "object", "minProperties": 1, "maxProperties": 2},
            [{"a": 1}],
            [{}, {"a": 1, "b": 2, "c": 3}],
        ),
        ({"propertyNames": {"pattern": "^x_"}}, [{"x_a": 1}, {}], [{"a": 1}]),
        ({"patternProperties": {"^x": {"type": "null"}}}, [{"x1": None}], [{"x1": 1}, {"y": None}]),
        (
            {"properties": {"a": {"const": 1}}, "patternProperties": {"^x": True}},
            [{"a": 1, "x": 0}],
            [{"y": 0}],
        ),
        (
            {"properties": {"ab": {"const": 1}, "a\n": {"const": 2}}, "additionalProperties": {"const": 3}},
            [{"ab": 1, "a\n": 2, "a": 3, "": 3, "abc": 3, "b": 3}, {"a": 3}, {}],
            [{"ab": 3}, {"a\n": 3}, {"a": 1}],
        ),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"const": 1}}}, [1], [2]),
        ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}}, [3], [2]),
        (
            {"type": "number", "allOf": [{"type": "integer", "minimum": 2}, {"maximum": 4}]},
            [2, 4],
            [1, 5, 2.5],
        ),
        (
            {"type": "string", "anyOf": [{"maxLength": 1}, {"pattern": "^aa$"}, {"type": "null"}]},
            ["a", "aa"],
            ["b" * 2, None],
        ),
        (
            {
                "properties": {"a": {"const": 1}, "b": {"const": 2}},
                "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            [{"a": 1}, {"b": 2}, {"a": 1, "b": 2}],
            [{}],
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {"type": "string"}}, "required": ["a"]},
                    {"properties": {"a": {"maxLength": 2}, "b": {"const": 1}}},
                ]
            },
            [{"a": "x"}, {"a": "xx", "b": 1}],
            [{"a": "xxx"}, {"b": 1}],
        ),
        ({"type": "string", "format": "time"}, ["23:59:59Z", "23:59:59.5+01:00"], ["24:00:00Z"]),
        ({"type": "string", "format": "date-time"}, ["2024-12-31T00:00:00Z"], ["2024-12-31 00:00:00Z"]),
        ({"type": "string", "format": "uri", "maxLength": 3}, ["a:b"], ["a:bc"]),
        ({"title": "T", "description": "D", "default": 1, "examples": [1], "type": "null"}, [None], [1]),
        ({"$schema": "s", "$id": "i", "$comment": "c", "x-own": {}, "const": 1}, [1], [2]),
    ],
)
def test_what_schemas_demand(schema: Any, good: list[Any], bad: list[Any]) -> None:
    for document in good:
        assert accepts(schema, document), document
    for document in bad:
        assert not accepts(schema, document), document


def test_a_key_is_not_said_twice_in_two_ways() -> None:
    schema = {"properties": {"a": {"type": "integer"}}, "additionalProperties": True}
    assert accepts_text(schema, '{"a":1,"b":"x"}')
    assert not accepts_text(schema, '{"a":1,"a":"x"}')
    assert not accepts_text(schema, '{"a":1,"\\u0061":"x"}')


def test_no_line_breaks_within_strings() -> None:
    assert accepts_text({"type": "string"}, '"a\\nb"')
    assert not accepts_text({"type": "string"}, '"a\nb"')


def test_single_spaces_between_the_parts() -> None:
    assert accepts_text("json", '{"a": [1, { "b": 2 }]}')
    assert not accepts_text("json", '{"a":   1}')


def test_a_reference_with_company_in_a_schema_that_contains_itself() -> None:
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node", "required": ["next"]}}}},
    }
    assert accepts(schema, {})
    assert not accepts(schema, {"next": {}})


@given(st.integers(-2000, 2000), st.integers(0, 300), st.integers(-2500, 2500))
@example(0, 0, 0)
@example(-1, 1, 0)
@example(99, 2, 100)
def test_bounds_of_integers(low: int, width: int, value: int) -> None:
    high = low + width
    assert accepts({"type": "integer", "minimum": low, "maximum": high}, value) == (low <= value <= high)
    assert accepts({"type": "integer", "exclusiveMinimum": low}, value) == (low < value)
    assert accepts({"type": "integer", "exclusiveMaximum": high}, value) == (value < high)


def test_a_contradiction_in_one_alternative_leaves_the_others() -> None:
    schema = {
        "type": "string",
        "anyOf": [{"type": "integer"}, {"minLength": 2, "maxLength": 1}, {"const": "a"}],
    }
    assert accepts(schema, "a")
    assert not accepts(schema, 1)


def test_a_schema_that_contains_itself() -> None:
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["name", "next"],
            }
        },
    }
    assert accepts(schema, {"name": "a", "next": {"name": "b", "next": None}})
    assert not accepts(schema, {"name": "a", "next": {"name": "b"}})


@pytest.mark.parametrize("name", ["address", "string", "root", "a b", "ü"])
def test_a_definition_is_not_mistaken_for_a_property_of_its_name(name: str) -> None:
    schema = {
        "properties": {
            name: {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
            "other": {"$ref": f"#/$defs/{name}"},
        },
        "required": [name, "other"],
        "$defs": {name: {"type": "object", "properties": {"y": {"type": "integer"}}, "required": ["y"]}},
    }
    assert accepts(schema, {name: {"x": "a"}, "other": {"y": 1}})
    assert not accepts(schema, {name: {"x": "a"}, "other": {"x": "a"}})
