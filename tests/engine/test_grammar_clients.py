"""Schemas as clients write them: pydantic's, zod's, OpenAI's strict tools, Cline's tools."""

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.engine.matching import accepts


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: Annotated[str, Field(min_length=1, max_length=8, pattern=r"^[A-Z]\w*$")]


class Node(BaseModel):
    value: int
    below: list["Node"] = []


class Household(BaseModel):
    """One of everything that pydantic writes."""

    model_config = ConfigDict(extra="forbid")

    owner: str
    since: datetime
    key: UUID
    colour: Colour
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    counts: dict[str, int]
    by_colour: dict[Colour, bool]
    place: tuple[int, str]
    friends: Annotated[list[Cat], Field(max_length=2)]
    score: Annotated[float, Field(ge=0, le=1)]
    tree: Node
    anything: Any
    nickname: str | None = Field(default=None, description="what the neighbours say")
    level: Literal[1, "two", None] = None
    second: Colour = Field(default=Colour.RED, description="a reference with company")


HOUSEHOLD = {
    "owner": 'Ada "the first"\n',
    "since": "2024-02-29T12:00:00.123456Z",
    "key": "123e4567-e89b-12d3-a456-426614174000",
    "colour": "red",
    "pet": {"kind": "cat", "lives": 9},
    "counts": {"socks": 2, "ü": -1},
    "by_colour": {"blue": True},
    "place": [12, "left"],
    "friends": [],
    "score": 0.5,
    "tree": {"value": 1, "below": [{"value": 2, "below": [{"value": 3}]}]},
    "anything": [None, {"a": 1.5e-7}],
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pet": {"kind": "dog", "name": "Rex"}},
        {"nickname": None},
        {"nickname": "A", "level": "two", "second": "blue"},
        {"level": 1},
        {"counts": {}, "friends": [{"kind": "cat", "lives": 1}]},
    ],
)
def test_what_pydantic_describes(change: dict[str, Any]) -> None:
    document = {**HOUSEHOLD, **change}
    Household.model_validate(document)
    assert accepts(Household.model_json_schema(), document)


@pytest.mark.parametrize(
    "change",
    [
        {"since": "2024-02-29"},
        {"key": "123e4567"},
        {"colour": "green"},
        {"pet": {"kind": "cat", "name": "Rex"}},
        {"pet": {"kind": "dog", "name": "rex"}},
        {"pet": {"kind": "cat", "lives": 10}},
        {"pet": {"kind": "cat", "lives": 0}},
        {"counts": {"socks": "two"}},
        {"by_colour": {"green": True}},
        {"place": [12]},
        {"place": [12, "left", 1]},
        {"friends": [{"kind": "cat", "lives": 1}] * 3},
        {"score": "high"},
        {"tree": {"value": 1, "below": [{"below": []}]}},
        {"nickname": 1},
        {"level": 2},
        {"unheard": 1},
    ],
)
def test_what_pydantic_would_not_take(change: dict[str, Any]) -> None:
    assert not accepts(Household.model_json_schema(), {**HOUSEHOLD, **change})


ZOD = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
        "nul": {"type": ["string", "null"]},
        "l": {"enum": [1, "x", None]},
        "t": {
            "type": "array",
            "prefixItems": [{"type": "string"}, {"type": "number"}],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        },
        "tr": {
            "type": "array",
            "prefixItems": [{"type": "string"}],
            "items": {"type": "number"},
            "minItems": 1,
        },
        "r": {
            "type": "object",
            "propertyNames": {"type": "string"},
            "additionalProperties": {"type": "number"},
        },
        "re": {
            "type": "object",
            "propertyNames": {"type": "string", "enum": ["x", "y"]},
            "additionalProperties": {"type": "boolean"},
            "required": ["x", "y"],
        },
        "any": {},
        "rec": {"type": "array", "items": {"$ref": "#"}},
        "day": {
            "type": "string",
            "format": "date",
            "pattern": r"^(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29"
            r"|\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
            r"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|(?:02)-(?:0[1-9]|1\d|2[0-8])))$",
        },
        "mail": {
            "type": "string",
            "format": "email",
            "pattern": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+"
            r"[A-Za-z]{2,}$",
        },
        "duration": {
            "type": "string",
            "format": "duration",
            "pattern": r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(T(?=\d)(\d+H)?(\d+([.,]\d+)?S)?)?)$",
        },
        "base64": {
            "type": "string",
            "contentEncoding": "base64",
            "pattern": "^$|^(?:[0-9a-zA-Z+/]{4})*(?:(?:[0-9a-zA-Z+/]{2}==)|(?:[0-9a-zA-Z+/]{3}=))?$",
        },
        "starts": {"type": "string", "format": "starts_with", "pattern": "^ab.*"},
        "ends": {"type": "string", "format": "ends_with", "pattern": ".*b$"},
        "loose": {
            "type": "object",
            "properties": {"a": {"type": "string"}},
            "required": ["a"],
            "additionalProperties": {},
        },
    },
    "required": ["n"],
    "additionalProperties": False,
    "$schema": "https://json-schema.org/draft/2020-12/schema",
}


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"nul": None, "l": None, "t": ["a", 1], "tr": ["a", 1, 2.5], "r": {"q": 1}},
        {"re": {"x": True, "y": False}, "any": [], "rec": [{"n": 2, "rec": []}]},
        {"day": "2024-02-29", "mail": "a.b@c.de", "duration": "P1D", "base64": "YWI="},
        {"starts": "abc", "ends": "ab", "loose": {"a": "b", "aa": 1}},
    ],
)
def test_what_zod_describes(rest: dict[str, Any]) -> None:
    assert accepts(ZOD, {"n": 9007199254740991, **rest})


@pytest.mark.parametrize(
    "document",
    [
        {"n": 0},
        {"n": 9007199254740992},
        {"n": 1, "l": 2},
        {"n": 1, "t": ["a"]},
        {"n": 1, "tr": []},
        {"n": 1, "re": {"x": True}},
        {"n": 1, "day": "2023-02-29"},
        {"n": 1, "mail": "a@b"},
        {"n": 1, "base64": "YWI"},
        {"n": 1, "starts": "xab"},
        {"n": 1, "ends": "ba"},
        {"n": 1, "loose": {"a": 1, "a2": "b"}},
    ],
)
def test_what_zod_would_not_take(document: dict[str, Any]) -> None:
    assert not accepts(ZOD, document)


STRICT = {
    "type": "object",
    "description": "In strict mode all is required, and what is optional may be null.",
    "properties": {
        "location": {"type": "string", "description": "City and country"},
        "units": {"type": ["string", "null"], "enum": ["celsius", "fahrenheit", None]},
        "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "step": {"$ref": "#/$defs/step"},
    },
    "required": ["location", "units", "days", "step"],
    "additionalProperties": False,
    "$defs": {
        "step": {
            "type": "object",
            "properties": {
                "output": {"type": "string"},
                "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            },
            "required": ["output", "next"],
            "additionalProperties": False,
        }
    },
}


def test_a_strict_tool_of_openai() -> None:
    inner = {"location": "b", "units": "celsius", "days": 3, "step": {"output": "", "next": None}}
    assert accepts(STRICT, {**inner, "units": None, "days": None, "step": {"output": "x", "next": inner}})
    assert not accepts(STRICT, {**inner, "units": "kelvin"})
    assert not accepts(STRICT, {"location": "b", "units": None, "days": None})


STRING = {"type": "string"}
LINE = {
    "anyOf": [{"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991}, {"type": "null"}],
    "description": "one-based",
}
CLINE: dict[str, tuple[dict[str, Any], list[str], Any]] = {
    "read_files": (
        {
            "files": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"path": STRING, "start_line": LINE, "end_line": LINE},
                    "required": ["path"],
                    "additionalProperties": False,
                },
            }
        },
        ["files"],
        {"files": [{"path": "/a b/ü.py", "end_line": None}, {"path": "x", "start_line": 1, "end_line": 200}]},
    ),
    "editor": (
        {
            "path": {"type": "string", "minLength": 1},
            "old_text": {"anyOf": [STRING, {"type": "null"}]},
            "new_text": STRING,
            "insert_line": {
                "anyOf": [
                    {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
                    {"type": "null"},
                ]
            },
        },
        ["path", "new_text"],
        {"path": "a", "new_text": 'print("a\\n")\n\tpass', "old_text": None, "insert_line": -1},
    ),
    "ask_question": (
        {
            "question": {"type": "string", "minLength": 1},
            "options": {
                "type": "array",
                "minItems": 2,
                "maxItems": 5,
                "items": {"type": "string", "minLength": 1},
            },
        },
        ["question", "options"],
        {"question": "Which?", "options": ["this", "that"]},
    ),
    "team_task": (
        {
            "action": {"type": "string", "enum": ["create", "list", "claim"]},
            "dependsOn": {"type": "array", "items": STRING},
            "title": {"type": "string", "minLength": 1},
        },
        ["action"],
        {"action": "create", "title": "T"},
    ),
    "team_status": ({}, [], {}),
}


def tool(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


@pytest.mark.parametrize(("properties", "required", "arguments"), CLINE.values(), ids=CLINE.keys())
def test_tools_of_cline(properties: dict[str, Any], required: list[str], arguments: Any) -> None:
    schema = tool(properties, required)
    assert accepts(schema, arguments)
    assert not accepts(schema, {**arguments, "unheard": 1})
    for name in required:
        assert not accepts(schema, {key: value for key, value in arguments.items() if key != name})
