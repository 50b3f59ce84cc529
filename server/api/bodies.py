"""Bodies of every dialect: JSON to frozen types, and values to JSON in one line."""

import base64
import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from server.domain.errors import InvalidRequest

Body = TypeVar("Body", bound=BaseModel)

SHOWN_CHARS = 80

_JSON_TYPES = {
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "an array",
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "union_tag_not_found": "an object",
}
"""pydantic's kinds of fault, and what should have been there in the words of JSON."""

_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""Line ends for Python's ``splitlines``, with which clients cut a stream, and no end for JSON."""


class Lenient(BaseModel):
    """Unknown keys are ignored, the case of known ones as well, and null counts as absent, all as in Go; a
    wrong type is an error."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = {key: item for key, item in value.items() if item is not None}
        return {**{key.lower(): item for key, item in given.items()}, **given}


def _image(value: Any) -> Any:
    if isinstance(value, str):
        try:
            base64.b64decode(value, validate=True)
        except ValueError as error:
            raise ValueError(f"illegal base64 data: {error}") from None
    return value


Image = Annotated[str, BeforeValidator(_image)]


def parse(kind: type[Body], value: dict[str, Any]) -> Body:
    """``value`` as a body of the given kind.

    Raises:
        InvalidRequest: naming the field, what it holds and what it should hold.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "body"
        raise InvalidRequest(f"{field} {_complaint(fault)}") from error


def _complaint(fault: ErrorDetails) -> str:
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] == "value_error":
        return f"holds {fault['ctx']['error']}"
    wanted = _JSON_TYPES.get(fault["type"], "something else")
    return f"must be {wanted}, but it is {shown(fault['input'])}"


def shown(value: Any) -> str:
    """``value`` as JSON for an error text, its beginning if it is long."""
    held = json.dumps(value, ensure_ascii=False)
    return held if len(held) <= SHOWN_CHARS else f"{held[:SHOWN_CHARS]}…"


def encoded(value: dict[str, Any]) -> bytes:
    """Compact JSON in one line, whatever the reader takes for a line's end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_LINE_ENDS).encode("utf-8", "replace")


def documented(kind: type[BaseModel]) -> dict[str, Any]:
    """What a route's entry in the OpenAPI document says of its body, which the route reads by itself."""
    schema = kind.model_json_schema()
    plain = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": plain}}}}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """``schema`` with its references replaced by what they mean: the bodies have no cycles."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {key: _inlined(item, definitions) for key, item in schema.items()}
