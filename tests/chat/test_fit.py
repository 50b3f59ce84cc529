from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chat.fit import as_object, fitted

INTEGER, TEXT, YES_OR_NO = {"type": "integer"}, {"type": "string"}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
PATH = {"type": "object", "properties": {"path": TEXT, "start": INTEGER}, "required": ["path"]}
PATHS = {"type": "array", "items": PATH}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "schema", "wanted"),
    [
        ("5", INTEGER, 5),
        (" -5 ", INTEGER, -5),
        ("5.5", INTEGER, "5.5"),
        (5.0, INTEGER, 5.0),
        ("five", INTEGER, "five"),
        ("5.5", {"type": "number"}, 5.5),
        ("NaN", {"type": "number"}, "NaN"),
        (["a", {"path": "b"}], PATHS, [{"path": "a"}, {"path": "b"}]),
        ([["a", "b"]], PATHS, [{"path": "a"}, {"path": "b"}]),
        ([["a"], "b"], TEXTS, ["a", "b"]),
        ([["a"]], {"type": "array", "items": TEXTS}, [["a"]]),
        ([["a"]], {"type": "array", "items": {}}, [["a"]]),
        ("true", YES_OR_NO, True),
        ("False", YES_OR_NO, False),
        ("yes", YES_OR_NO, "yes"),
        (1, YES_OR_NO, 1),
        (True, INTEGER, True),
        ("null", {"type": "null"}, None),
        ("None", {"type": ["integer", "null"]}, None),
        (5, TEXT, "5"),
        (True, TEXT, "true"),
        ({"a": "é"}, TEXT, '{"a": "é"}'),
        (None, TEXT, None),
        ("5", TEXT, "5"),
        ("5", {"type": ["string", "integer"]}, "5"),
        ("5", {"anyOf": [INTEGER, {"type": "null"}]}, 5),
        ("5", {"anyOf": [INTEGER, {}]}, "5"),
        ('["a"]', TEXTS, ["a"]),
        ("[1, 2]", TEXTS, ["1", "2"]),
        ('{"a": "5"}', {"type": "object", "properties": {"a": INTEGER}}, {"a": 5}),
        ({"a": "5", "b": "5"}, {"properties": {"a": INTEGER}}, {"a": 5, "b": "5"}),
        ([{"a": "5"}], {"items": {"properties": {"a": INTEGER}}}, [{"a": 5}]),
        ("5", {}, "5"),
        ("5", {"type": "colour"}, "5"),
        ("5", True, "5"),
        ("[" * 100_000, TEXTS, "[" * 100_000),
    ],
)
def test_fitted(value: Any, schema: Any, wanted: Any) -> None:
    assert fitted(value, schema) == wanted
    assert type(fitted(value, schema)) is type(wanted)


@given(ANY_JSON, ANY_JSON)
def test_no_schema_breaks_it(value: Any, schema: Any) -> None:
    fitted(value, schema)


@given(ANY_JSON)
def test_what_fits_is_left_alone(value: Any) -> None:
    everything = {"type": ["string", "number", "integer", "boolean", "null", "array", "object"]}
    assert fitted(value, everything) == value


FILES = {"properties": {"files": TEXTS, "limit": INTEGER}}
TWO_TEXTS = {"properties": {"path": TEXT, "mode": TEXT}}


@pytest.mark.parametrize(
    ("value", "schema", "wanted"),
    [
        (["a"], FILES, {"files": ["a"]}),
        (5, FILES, {"limit": 5}),
        ("a", FILES, None),
        ("a", TWO_TEXTS, None),
        ("a", {**TWO_TEXTS, "required": ["path"]}, {"path": "a"}),
        ("a", {**TWO_TEXTS, "required": ["path", "mode"]}, None),
        ({"b": 1}, TWO_TEXTS, {"b": 1}),
        ([{"path": "a", "mode": "r"}], {**TWO_TEXTS, "required": ["path"]}, {"path": "a", "mode": "r"}),
        ([{"files": ["a"], "path": "b"}], {**FILES, "required": ["files"]}, {"files": ["a"], "path": "b"}),
        (
            [{"path": "a"}],
            {"properties": {"files": PATHS}, "required": ["files"]},
            {"files": [{"path": "a"}]},
        ),
        ([{"files": ["a"]}] * 2, {**TWO_TEXTS, "required": ["files"]}, None),
        ([{"a": 1}], {**TWO_TEXTS, "required": [["a"]]}, None),
        ("a", {"properties": {"path": TEXT}, "required": 5}, {"path": "a"}),
        (["a"], {}, None),
        (["a"], {"properties": {"any": {}}}, None),
    ],
)
def test_arguments_without_a_name(value: Any, schema: Any, wanted: Any) -> None:
    assert as_object(value, schema) == wanted
