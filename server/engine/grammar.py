"""What an answer's form may be: JSON schemas turned into llama.cpp's grammars."""

import json
from typing import Any

from llama_cpp.llama_grammar import json_schema_to_gbnf

from server.domain.chat import JsonObject
from server.domain.errors import InvalidRequest

ANY_OBJECT = {"type": "object"}


def grammar_of(form: str | JsonObject | None) -> str | None:
    """GBNF for ``json`` or for a JSON schema; None for no constraint.

    Raises:
        InvalidRequest: it is neither, or a schema that cannot be converted.
    """
    if form is None or form == "":
        return None
    if form == "json":
        return _convert(ANY_OBJECT)
    if isinstance(form, str):
        raise InvalidRequest(
            f'invalid format: {json.dumps(form)}; expected "json" or a valid JSON Schema object'
        )
    return _convert(dict(form))


def _convert(schema: dict[str, Any]) -> str:
    try:
        return str(json_schema_to_gbnf(json.dumps(schema)))
    except RecursionError as error:
        raise InvalidRequest("invalid format: the JSON schema is nested too deeply") from error
    # The converter has no error type of its own: it stumbles over whatever it meets.
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise InvalidRequest(f"invalid format: the JSON schema cannot be converted: {error}") from error
