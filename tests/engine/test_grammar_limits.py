"""Forms that are refused, in words that help, and those that would keep llama.cpp busy for ever if they were
not cut short."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.domain.errors import InvalidRequest
from server.engine.gbnf import MOST_ALTERNATIVES, MOST_TIMES
from server.engine.grammar import grammar_of
from tests.engine.matching import accepts


def refusal(form: Any) -> str:
    with pytest.raises(InvalidRequest) as error:
        grammar_of(form)
    assert str(error.value).startswith("invalid format: ")
    assert len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.parametrize("form", ["JSON", "yaml", '"', "ü"])
def test_other_words(form: str) -> None:
    expected = f'invalid format: {json.dumps(form)}; expected "json" or a valid JSON Schema object'
    assert refusal(form) == expected


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (
            {"properties": {"a": {"items": {"minimum": "x", "type": "integer"}}}},
            ["#/properties/a/items", "minimum"],
        ),
        ({"properties": {"a": {"pattern": "^(?=a)$"}}}, ["#/properties/a", "pattern", "(?=a)"]),
        ({"properties": {"a": {"not": {}}}}, ["#/properties/a", "not"]),
        ({"$defs": {"a": {"if": {}}}, "items": {"$ref": "#/$defs/a"}}, ["#/$defs/a", "if"]),
        ({"anyOf": [{"type": "null"}, {"type": "strange"}]}, ["#/anyOf/1", "type", "strange"]),
        ({"items": {"$ref": "#/$defs/none"}}, ["#/items", "$ref", "#/$defs/none"]),
        ({"allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["#", "pattern"]),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, ["#", "nothing satisfies"]),
        ({"type": "integer", "minimum": 3, "maximum": 2}, ["#", "minimum", "maximum"]),
        ({"type": "string", "minLength": 3, "maxLength": 2}, ["#", "minLength", "maxLength"]),
        ({"type": "string", "minLength": -1}, ["#", "minLength"]),
        ({"type": "array", "items": False, "minItems": 1}, ["#", "minItems", "items"]),
        ({"type": "string", "enum": [1]}, ["#", "enum"]),
        ({"required": ["a"], "additionalProperties": False}, ["#", "required", "a"]),
        ({"properties": {"a": True}, "minProperties": 1}, ["#", "minProperties"]),
        ({"properties": {f"p{place}": True for place in range(MOST_TIMES + 1)}}, ["#", "properties"]),
    ],
)
def test_a_refusal_names_place_and_keyword(schema: dict[str, Any], words: list[str]) -> None:
    reason = refusal(schema)
    for word in words:
        assert word in reason


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strange"},
        {"type": 1},
        {"type": {"a": "b"}},
        {"type": []},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "other.json"},
        {"$ref": "#/$defs/0", "$defs": []},
        {"$ref": "#/$defs/a/b", "$defs": {"a": "b"}},
        {"$ref": "#"},
        {"$ref": 1},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
        {"$ref": "#/$defs/a", "$defs": {"a": 1}},
        {"properties": []},
        {"properties": {"a": 1}},
        {"properties": {"a": False}},
        {"items": 3},
        {"items": [1]},
        {"anyOf": []},
        {"anyOf": 1},
        {"oneOf": [None]},
        {"enum": []},
        {"enum": 1},
        {"allOf": [1]},
        {"type": "array", "items": {"type": "string"}, "minItems": "1"},
        {"type": "array", "items": {"type": "string"}, "maxItems": [1]},
        {"type": "string", "minLength": 2.5},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
        {"pattern": 1},
        {"pattern": "a"},
        {"pattern": "^a)$"},
        {"pattern": "^[a$"},
        {"pattern": "^*$"},
        {"pattern": "^(?=a)$"},
        {"pattern": "^a{x}$"},
        {"pattern": "^a{1000000000}$"},
        {"pattern": "^a{0,1000000000}$"},
        {"pattern": "^a{1_000_000_000}$"},
        {"pattern": "^((((((x?){9}){9}){9}){9}){9}){9}$"},
        {"pattern": "^" + "(x?)+" * 40 + "$"},
        {"pattern": "^\ud800$"},
        {"format": {}},
        {"a": {1: object()}},
    ],
    ids=lambda schema: str(schema)[:60].encode("ascii", "replace").decode(),
)
def test_broken_schemas(schema: Any) -> None:
    refusal(schema)


@pytest.mark.parametrize("pattern", ["^]$", "^a}$", "^[a]]$", "^(})$", "^x{2}}$", "^\\\\]$", "^a]*$"])
def test_a_lone_bracket_does_not_hang_the_converter(pattern: str) -> None:
    assert "not escaped" in refusal({"type": "string", "pattern": pattern})


@pytest.mark.parametrize("pattern", ["^\\]$", "^a\\}$", "^[\\]]$", "^[}]$", "^x{2}$", "^[{]{2}$"])
def test_brackets_in_their_places(pattern: str) -> None:
    assert grammar_of({"type": "string", "pattern": pattern})


@pytest.mark.parametrize("most", [MOST_TIMES + 1, 50_000, 10**12])
@pytest.mark.parametrize(
    ("schema", "key"),
    [({"type": "string"}, "maxLength"), ({"type": "array", "items": {"type": "null"}}, "maxItems")],
)
def test_a_high_limit_is_no_limit(schema: dict[str, Any], key: str, most: int) -> None:
    """Written out, 50,000 optional repetitions end the process: llama.cpp's stack overflows."""
    grammar = grammar_of({**schema, key: most})
    assert grammar is not None
    assert len(grammar) < 1000
    assert accepts({**schema, key: most}, "a" * 5 if key == "maxLength" else [None] * 5)


def test_limits_up_to_there_are_kept() -> None:
    for most in (1, 7, 60, MOST_TIMES):
        assert accepts({"type": "string", "maxLength": most}, "a" * most)
        assert not accepts({"type": "string", "maxLength": most}, "a" * (most + 1))


def chain(length: int) -> dict[str, Any]:
    """Each part names the next two, which name further ones: more than 1.6 ** length paths."""
    links: dict[str, Any] = {
        f"a{place}": {"anyOf": [{"$ref": f"#/$defs/a{place + 1}"}, {"$ref": f"#/$defs/a{place + 2}"}]}
        for place in range(length)
    }
    ends = {f"a{length}": {"type": "string"}, f"a{length + 1}": {"type": "null"}}
    return {"$ref": "#/$defs/a0", "$defs": {**links, **ends}}


def test_alternatives_that_llama_cpp_would_follow_for_ever() -> None:
    assert "nested without an end" in refusal(chain(60))
    assert accepts(chain(5), None)


@pytest.mark.parametrize("word", ["enum", "anyOf"])
def test_alternatives_that_take_seconds_for_each_token(word: str) -> None:
    many = range(MOST_ALTERNATIVES + 1)
    parts = list(many) if word == "enum" else [{"const": number} for number in many]
    assert "too many" in refusal({word: parts})
    assert accepts({word: parts[:-1]}, 1999)


def test_parts_that_are_the_same_are_converted_once() -> None:
    links: dict[str, Any] = {
        f"a{place}": {"properties": {"p": {"allOf": [{"$ref": f"#/$defs/a{place + 1}"}] * 2}}}
        for place in range(40)
    }
    schema = {"allOf": [{"$ref": "#/$defs/a0"}] * 2, "$defs": {**links, "a40": {"properties": {}}}}
    assert accepts(schema, {"p": {"p": {}}})


def test_combinations_without_an_end() -> None:
    groups = [
        {"anyOf": [{"properties": {f"p{group}-{place}": True}} for place in range(4)]} for group in range(20)
    ]
    assert "too large" in refusal({"allOf": groups})


def test_nested_beyond_python() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(900):
        schema = {"type": "array", "items": schema}
    assert "nested too deeply" in refusal(schema)


def test_many_properties() -> None:
    schema = {"properties": {f"p{number}": {"type": "integer"} for number in range(150)}}
    grammar = grammar_of(schema)
    assert grammar is not None
    assert len(grammar.splitlines()) > 150


WORDS = st.sampled_from(
    [
        *("type", "$ref", "properties", "items", "enum", "const", "anyOf", "oneOf", "allOf", "required"),
        *("pattern", "format", "minLength", "maxLength", "minItems", "maxItems", "additionalProperties"),
        *("prefixItems", "$defs", "a", "string", "object", "array", "integer", "null", "number", "boolean"),
        *("#/$defs/a", "#/a", "#", "https://x", "^a$", "^]$", "^(a|b){2,3}$", "date", "uuid", "value", ""),
    ]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.text(max_size=3))
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(WORDS, SCHEMAS, max_size=5))
@example({"type": "string", "maxLength": float("nan")})
@example({"type": "string", "minLength": float("inf")})
@example({"type": "array", "items": {"type": "null"}, "maxItems": True})
def test_any_json_is_a_schema_or_refused(schema: dict[str, Any]) -> None:
    try:
        grammar = grammar_of(schema)
    except InvalidRequest as error:
        assert str(error).startswith("invalid format: ")
        return
    assert grammar is not None
    assert grammar.startswith("root ::= ") or "\nroot ::= " in grammar
    grammar.encode()
