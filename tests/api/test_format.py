"""``format``: an answer is JSON, or JSON of a schema, or it was cut for its length."""

import json
from typing import Any

import httpx
import pytest

from tests.api.asking import answer_of, chat, chunks_of, error_of, generate, settled

ASK = [{"role": "user", "content": "Give me a person as JSON."}]
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "warm": {"type": "boolean"}},
    "required": ["colour", "warm"],
}
NESTED = {
    "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}},
    "type": "object",
    "properties": {
        "points": {"type": "array", "items": {"$ref": "#/$defs/Point"}, "minItems": 1, "maxItems": 1}
    },
    "required": ["points"],
}
CLINE = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "line": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9007199254740991}, {"type": "null"}]},
        "count": {"type": "integer", "exclusiveMinimum": 0},
    },
    "required": ["line"],
    "additionalProperties": False,
}


def is_colour(value: Any) -> bool:
    return (
        list(value) == ["colour", "warm"]
        and value["colour"] in {"red", "blue"}
        and type(value["warm"]) is bool
    )


def is_nested(value: Any) -> bool:
    return len(value["points"]) == 1 and type(value["points"][0]["x"]) is bool


def is_cline(value: Any) -> bool:
    return set(value) <= {"line", "count"} and (value["line"] is None or type(value["line"]) is int)


FORMS = {
    "json": ("json", lambda value: isinstance(value, dict)),
    "enum": (COLOUR, is_colour),
    "nested": (NESTED, is_nested),
    "cline": (CLINE, is_cline),
    "constant": ({"const": "yes"}, lambda value: value == "yes"),
    "integer": ({"type": "integer"}, lambda value: type(value) is int),
}


@pytest.mark.parametrize(("form", "fits"), FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("ask", [chat, generate])
def test_an_answer_has_the_form_unless_it_was_cut(
    client: httpx.Client, ask: Any, stream: bool, form: Any, fits: Any
) -> None:
    given = {"messages": ASK} if ask is chat else {"prompt": ASK[0]["content"]}
    options = {"num_predict": 24, "temperature": 0.8, "seed": 1}
    response = ask(client, format=form, stream=stream, options=options, **given)
    chunks = chunks_of(response) if stream else [answer_of(response)]
    text = "".join(chunk["message"]["content"] if ask is chat else chunk["response"] for chunk in chunks)
    if chunks[-1]["done_reason"] == "stop":
        assert fits(json.loads(text))
    else:
        assert text.lstrip()[:1] in set('{"-0123456789')


@pytest.mark.parametrize("seed", range(4))
def test_a_short_schema_is_filled_whatever_the_seed(client: httpx.Client, seed: int) -> None:
    options = {"num_predict": 40, "temperature": 2.0, "seed": seed}
    answer = answer_of(chat(client, messages=ASK, format=COLOUR, options=options))
    assert answer["done_reason"] == "stop"
    assert is_colour(json.loads(answer["message"]["content"]))


def test_an_empty_schema_is_one(client: httpx.Client) -> None:
    answer = answer_of(chat(client, format={}, options={"num_predict": 3, "temperature": 0}))
    assert answer["message"]["content"].lstrip()[:1] in set('{["-0123456789tfn')


@pytest.mark.parametrize("form", [None, ""])
def test_no_form_is_free(client: httpx.Client, form: Any) -> None:
    free = settled(chat, client)["message"]["content"]
    assert answer_of(chat(client, format=form))["message"]["content"] == free


@pytest.mark.parametrize("form", ["xml", "JSON", " json", 5, 0, True, False, [], ["json"]])
@pytest.mark.parametrize("ask", [chat, generate])
@pytest.mark.parametrize("stream", [True, False])
def test_another_form_is_an_error_in_ollamas_words(
    client: httpx.Client, ask: Any, form: Any, stream: bool
) -> None:
    assert error_of(ask(client, format=form, stream=stream)) == (
        f'invalid format: {json.dumps(form)}; expected "json" or a valid JSON Schema object'
    )


BROKEN = {
    "properties": {"type": "object", "properties": 5},
    "reference": {"$ref": "#/nowhere"},
    "remote": {"$ref": "https://example.com/schema.json"},
    "type": {"type": "nothing"},
    "pattern": {"type": "string", "pattern": "x"},
    "union": {"anyOf": 5},
    "no alternative": {"enum": []},
    "a billion": {"type": "string", "minLength": 10**9},
    "a billion items": {"type": "array", "minItems": 10**9},
    "a billion in a pattern": {"type": "string", "pattern": "^a{1000000000}$"},
    "a million squared": {"type": "string", "pattern": "^((a{1,900}){1,900}){1,900}$"},
}


@pytest.mark.parametrize("form", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("stream", [True, False])
def test_a_schema_that_is_none_is_an_error(client: httpx.Client, form: dict[str, Any], stream: bool) -> None:
    assert error_of(chat(client, format=form, stream=stream)).startswith("invalid format: ")


@pytest.mark.parametrize("form", ["xml", {"type": "nothing"}])
def test_a_chat_that_would_be_shortened_has_the_status_too(client: httpx.Client, form: Any) -> None:
    turn = [
        {"role": "assistant", "content": "The river runs. " * 100},
        {"role": "user", "content": "And then?"},
    ]
    messages = [*ASK, *turn, *turn, *turn, *turn, *turn, *turn]
    assert error_of(chat(client, messages=messages, format=form, stream=True)).startswith("invalid format: ")


STRANGE = {
    "long": {"type": "string", "maxLength": 100_000},
    "many": {"type": "array", "items": {"type": "string"}, "maxItems": 100_000},
    "zero byte": {"enum": ["\x00"]},
    "quotes": {"enum": ['"\\\n']},
    "digits": {"type": "integer", "minimum": 10**300},
    "recursive": {"type": "object", "properties": {"next": {"$ref": "#"}}},
    "mutual": {"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}},
    "stars": {"type": "string", "pattern": "^(((((a*)*)*)*)*)*$"},
    "brackets": {"type": "string", "pattern": "^" + "(" * 500 + ")" * 500 + "$"},
    "many keys": {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(2000)}},
    "long key": {"type": "object", "properties": {"k" * 50_000: {}}},
}


@pytest.mark.parametrize("form", STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_schema_is_answered_or_refused(client: httpx.Client, form: dict[str, Any]) -> None:
    response = chat(client, format=form, options={"num_predict": 3})
    assert response.status_code in {200, 400}
    if response.status_code == 400:
        assert error_of(response).startswith("invalid format: ")
