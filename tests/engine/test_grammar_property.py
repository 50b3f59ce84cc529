"""Any schema of the supported words lets through what satisfies it, and not what breaks an enforced word."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.matching import accepts


@dataclass(frozen=True)
class Case:
    """A schema with a document that satisfies it, and one that does not."""

    schema: Any
    good: Any
    bad: Any


TEXT = st.text('abc xyz019"\\/{}[],:\n\tüß中😀', max_size=5)
NAMES = st.text('abAB "\\ü', max_size=3)
NOTES = st.dictionaries(
    st.sampled_from(["title", "description", "default", "examples"]), TEXT | st.none(), max_size=2
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
KINDS = {"null": None, "boolean": True, "integer": 1, "string": "a", "array": [], "object": {}}


def bad_for(kind: str) -> st.SearchStrategy[Any]:
    """A document of another type."""
    return st.sampled_from([value for other, value in KINDS.items() if other != kind])


@st.composite
def integer(draw: st.DrawFn) -> Case:
    low, width = draw(st.integers(-(10**6), 10**6)), draw(st.integers(0, 10**4))
    words = draw(
        st.sampled_from(
            [
                {"minimum": low, "maximum": low + width},
                {"exclusiveMinimum": low - 1, "exclusiveMaximum": low + width + 1},
                {"minimum": low - 0.5, "maximum": low + width + 0.5},
            ]
        )
    )
    good = draw(st.integers(low, low + width))
    bad = draw(bad_for("integer") | st.sampled_from([low - 1, low + width + 1, low + 0.5]))
    return Case({"type": "integer", **words}, good, bad)


@st.composite
def string(draw: st.DrawFn) -> Case:
    good = draw(TEXT)
    low, high = draw(st.integers(0, len(good))), draw(st.integers(len(good), 9))
    wrong = "a" * (high + 1) if low == 0 else draw(st.sampled_from(["a" * (low - 1), "a" * (high + 1)]))
    return Case(
        {"type": "string", "minLength": low, "maxLength": high},
        good,
        draw(bad_for("string") | st.just(wrong)),
    )


@st.composite
def choice(draw: st.DrawFn) -> Case:
    values = draw(st.lists(ANYTHING, min_size=2, max_size=4, unique_by=repr))
    *allowed, bad = values
    good = draw(st.sampled_from(allowed))
    return Case(draw(st.sampled_from([{"enum": allowed}, {"const": good}])), good, bad)


@st.composite
def simple(draw: st.DrawFn) -> Case:
    kind, good = draw(st.sampled_from(list(KINDS.items())))
    return Case({"type": kind}, good, draw(bad_for(kind)))


@st.composite
def array(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    item = draw(inner)
    low, more = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    count = draw(st.integers(low, low + more))
    schema = {"type": "array", "items": item.schema, "minItems": low, "maxItems": low + more}
    wrong = [[item.good] * (low + more + 1)]
    wrong += [[item.good] * (low - 1)] if low else []
    wrong += [[item.bad] * count] if count else []
    return Case(schema, [item.good] * count, draw(bad_for("array").filter(bool) | st.sampled_from(wrong)))


@st.composite
def row(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    items = draw(st.lists(inner, min_size=1, max_size=3))
    good = [item.good for item in items]
    wrong = draw(st.integers(0, len(items) - 1))
    bad = draw(
        st.sampled_from([good[:-1], [*good, None], [*good[:wrong], items[wrong].bad, *good[wrong + 1 :]]])
    )
    return Case({"prefixItems": [item.schema for item in items]}, good, bad)


@st.composite
def record(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    cases = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=4))
    required = draw(st.lists(st.sampled_from(list(cases)), unique=True))
    others = draw(st.sampled_from([False, True, {"type": "null"}, None]))
    given_names = [name for name in cases if name in required]
    given_names += [name for name in cases if name not in required and draw(st.booleans())]
    good = {name: cases[name].good for name in given_names}
    wrong: list[Any] = [{**good, name: cases[name].bad} for name in given_names]
    wrong += [{key: value for key, value in good.items() if key != name} for name in required]
    wrong += [{**good, "other": 1}] if others is not True else []
    if others:
        good = {**good, "other": None}
    words = {} if others is None else {"additionalProperties": others}
    schema = {
        "properties": {name: case.schema for name, case in cases.items()},
        "required": required,
        **words,
    }
    return Case(schema, good, draw(bad_for("object") if not wrong else st.sampled_from(wrong)))


@st.composite
def mapping(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    value = draw(inner)
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    schema = {"type": "object", "additionalProperties": value.schema}
    return Case(schema, dict.fromkeys(names, value.good), {"a": value.good, "b": value.bad})


@st.composite
def nullable(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    case = draw(inner)
    word = draw(st.sampled_from(["anyOf", "oneOf"]))
    good = draw(st.sampled_from([case.good, None]))
    schema = {word: [case.schema, {"type": "null"}]}
    # What the inner schema does not take may be null, and so be taken here.
    return (
        Case(schema, good, case.bad)
        if case.bad is not None
        else Case({"allOf": [case.schema]}, case.good, None)
    )


@st.composite
def described(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    case = draw(inner)
    schema = draw(st.sampled_from([case.schema, {"allOf": [case.schema]}, {"allOf": [case.schema, {}]}]))
    return Case({**schema, **draw(NOTES)}, case.good, case.bad)


LEAVES = st.one_of(integer(), string(), choice(), simple())
CASES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        array(inner), row(inner), record(inner), mapping(inner), nullable(inner), described(inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(LEAVES | CASES)
def test_schemas_let_through_what_satisfies_them(case: Case) -> None:
    assert accepts(case.schema, case.good)
    assert not accepts(case.schema, case.bad)


@settings(max_examples=60)
@given(CASES, st.sampled_from(["$defs", "definitions"]))
def test_behind_a_reference_it_is_the_same(case: Case, where: str) -> None:
    schema = {
        "properties": {
            "one": {"$ref": f"#/{where}/it"},
            "list": {"items": {"$ref": f"#/{where}/it", "title": "x"}},
        },
        "required": ["one"],
        where: {"it": case.schema},
    }
    assert accepts(schema, {"one": case.good, "list": [case.good]})
    assert not accepts(schema, {"one": case.bad, "list": [case.good]})
    assert not accepts(schema, {"one": case.good, "list": [case.bad]})
