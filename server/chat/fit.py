"""Arguments of tool calls brought to the types that the tool's JSON schema asks for.

Models write ``"5"`` for 5 and an object for the text of one. What fits is left alone, and so is what
cannot be made to fit: the client's own check says it better.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from server.domain.chat import JsonObject

_DEEPEST = 32
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
"""What JSON's types are in Python, where a bool would be an int as well."""


def fitted(value: Any, schema: Any, *, depth: int = 0) -> Any:
    """``value`` as ``schema`` wants it, inside objects and lists, too."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return value
    types = _types(schema)
    if types and not any(_is(value, name) for name in types):
        value = _converted(value, types)
    if "object" in types and not any(_is(value, name) for name in types):
        # The path alone, where an object with a path is wanted.
        value = as_object(value, schema) or value
    if isinstance(value, dict) and isinstance(schema.get("properties"), Mapping):
        properties = schema["properties"]
        return {key: fitted(item, properties.get(key), depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        items = _flattened(value, schema["items"])
        return [fitted(item, schema["items"], depth=depth + 1) for item in items]
    return value


def as_object(value: Any, schema: JsonObject) -> dict[str, Any] | None:
    """Arguments that came without a name, such as the list of files alone: under the only name that takes
    them. None: there is none, or more than one. Arguments inside a list are taken out of it."""
    properties = schema.get("properties")
    value = _unwrapped(value, schema)
    if isinstance(value, dict) or not isinstance(properties, Mapping):
        return value if isinstance(value, dict) else None
    fitting = [
        name
        for name, part in properties.items()
        if isinstance(part, Mapping) and any(_is(value, kind) for kind in _types(part))
    ]
    needed = [name for name in fitting if name in _required(schema)]
    names = needed or fitting
    return {names[0]: value} if len(names) == 1 else None


def _unwrapped(value: Any, schema: JsonObject) -> Any:
    """What a list holds, if that is nothing but an object with all that the schema requires."""
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        return value
    required = _required(schema)
    return value[0] if required and all(name in value[0] for name in required) else value


def _required(schema: JsonObject) -> list[str]:
    """The names without which an object is not whole."""
    names = schema.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def json_of(text: str) -> Any:
    """JSON as models write it, with line breaks in strings as they are. Raises ValueError."""
    try:
        return json.loads(text, strict=False, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _flattened(items: list[Any], schema: JsonObject) -> list[Any]:
    """Without lists inside the list, where its items are wanted to be something else."""
    if "array" in (types := _types(schema)) or not types:
        return items
    return [item for part in items for item in (part if isinstance(part, list) else [part])]


def _types(schema: JsonObject) -> tuple[str, ...]:
    """The names of the types that fit; none if the schema does not say."""
    named = schema.get("type")
    if isinstance(named, str):
        return (named,)
    if isinstance(named, list):
        return tuple(name for name in named if isinstance(name, str))
    options = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(options, list) and all(isinstance(option, Mapping) for option in options):
        parts = [_types(option) for option in options]
        # One that allows anything makes the others void.
        return tuple(name for part in parts for name in part) if all(parts) else ()
    return ()


def _is(value: Any, name: str) -> bool:
    kinds = _KINDS.get(name)
    if kinds is None:
        return True
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (name == "integer" and isinstance(value, float) and value.is_integer())


def _converted(value: Any, types: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        parsed = _parsed(value)
        return parsed if any(_is(parsed, name) for name in types if name != "string") else value
    if "string" in types and value is not None:
        return json.dumps(value, ensure_ascii=False)
    return value


def _parsed(text: str) -> Any:
    """What ``text`` is as JSON, also where ``True`` is written as in Python; itself if it is none."""
    plain = text.strip()
    if plain in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[plain]
    try:
        return json_of(plain)
    except ValueError:
        return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
