"""Schemas made to have no end: each is refused, or becomes a grammar within seconds."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server.domain.errors import InvalidRequest
from server.engine.grammar import grammar_of
from tests.api.asking import chat_body
from tests.hostile.asking import watched
from tests.running import RunningServer

Schema = dict[str, Any]


def deep(levels: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def doubled(levels: int, word: str) -> Schema:
    """Each part names the one before twice."""
    parts: Schema = {"d0": {"type": "string"}}
    for level in range(levels):
        refs = [{"$ref": f"#/$defs/d{level}"}] * 2
        parts[f"d{level + 1}"] = {word: refs, "properties": {"a": refs[0], "b": refs[0]}}
    return {"$defs": parts, "$ref": f"#/$defs/d{levels}"}


def chosen(groups: int, *kinds: Schema) -> Schema:
    """One out of each group, in all combinations."""
    return {"allOf": [{"anyOf": list(kinds)}] * groups}


ENDLESS: dict[str, Callable[[], Schema]] = {
    "deep": lambda: deep(90),
    "doubled by allOf": lambda: doubled(60, "allOf"),
    "doubled by anyOf": lambda: doubled(60, "anyOf"),
    "combinations": lambda: chosen(40, {"properties": {"a": {}}}, {"properties": {"b": {}}}),
    "contradictions": lambda: {**chosen(60, {"type": "string"}, {"type": "null"}), "type": "integer"},
    "long enums": lambda: chosen(12, {"enum": list(range(3000))}, {"enum": list(range(1000, 5000))}),
    "longest enum": lambda: {"enum": [f"value {number}" for number in range(200_000)]},
    "large enum": lambda: {"enum": ["x" * 5000 + str(number) for number in range(1900)]},
    "required": lambda: {"required": [f"p{number}" for number in range(200_000)]},
    "required twice": lambda: {"allOf": [{"required": [f"{a}{n}" for n in range(9000)]} for a in "ab"]},
    "properties": lambda: {"properties": {f"p{number}": {"type": "string"} for number in range(10_000)}},
    "patterns": lambda: {"patternProperties": {f"^a{n}[a-z]{{0,99}}$": True for n in range(2000)}},
    "keys alike": lambda: {
        "properties": {"x" * n: True for n in range(1, 900)},
        "additionalProperties": True,
    },
    "choices": lambda: {"anyOf": [{"properties": {f"k{n}": True}} for n in range(5000)]},
    "items": lambda: {"prefixItems": [{"type": "string"}] * 9000},
    "brackets": lambda: {"pattern": "^" + "(" * 5000 + "a" + ")" * 5000 + "$"},
    "long pattern": lambda: {"pattern": "^" + "a" * 2_000_000 + "$"},
    "alternatives": lambda: {"pattern": "^(" + "|".join(f"w{n}" for n in range(100_000)) + ")$"},
    "repetitions": lambda: {"pattern": "^((a|b)*(a|b)*)*$"},
    "nested repetitions": lambda: {"pattern": "^((((a{1,50}){1,50}){1,50}){1,50}){1,50}$"},
    "large class": lambda: {"pattern": "^[" + "".join(chr(0x4E00 + 2 * n) for n in range(9000)) + "]+$"},
    "digits": lambda: {"type": "integer", "minimum": -(10**4000), "maximum": 10**4000},
    "many digits": lambda: {
        "properties": {str(n): {"minimum": 10**99, "type": "integer"} for n in range(999)}
    },
    "long reference": lambda: {"$ref": "#/" + "a/" * 1_000_000},
    "escaped reference": lambda: {"$ref": "#/" + "%2525" * 300_000},
    "to itself": lambda: {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, True]}}},
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_schema_comes_to_an_end(name: str) -> None:
    schema = ENDLESS[name]()
    began_s = time.monotonic()
    try:
        grammar = grammar_of(schema) or ""
    except InvalidRequest as error:
        assert len(str(error)) < 2100
    else:
        assert len(grammar) < 2**21
    assert time.monotonic() - began_s < 10


SOME = (
    "deep",
    "doubled by anyOf",
    "properties",
    "items",
    "large class",
    "many digits",
    "keys alike",
    "large enum",
)


@pytest.mark.parametrize("name", SOME)
def test_the_server_answers_beside_it(server: RunningServer, client: httpx.Client, name: str) -> None:
    body = chat_body(format=ENDLESS[name]())
    with watched(server) as pulse:
        response = client.post("/api/chat", json=body)
    assert response.status_code in {200, 400}, response.text[:200]
    assert pulse.longest_s < 1.5


def test_a_tools_schema_is_no_better(server: RunningServer, client: httpx.Client) -> None:
    for name in ("doubled by allOf", "long enums", "long pattern"):
        tool = {"type": "function", "function": {"name": "f", "parameters": ENDLESS[name]()}}
        body = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        asked = {**body, "tools": [tool], "tool_choice": "required"}
        with watched(server) as pulse:
            assert client.post("/v1/chat/completions", json=asked).status_code == 400
        assert pulse.longest_s < 1.5
