"""What an answer's form may be: JSON schemas turned into llama.cpp's grammars."""

import json

from server.domain.chat import JsonObject
from server.domain.errors import InvalidRequest
from server.engine.schema import schema_grammar


def grammar_of(form: str | JsonObject | None) -> str | None:
    """GBNF for ``json`` or for a JSON schema; None for no constraint.

    Raises:
        InvalidRequest: it is neither, or a schema that contradicts itself or cannot be expressed.
    """
    if form is None or form == "":
        return None
    if form == "json":
        return schema_grammar({"type": "object"})
    if isinstance(form, str):
        raise InvalidRequest(
            f'invalid format: {json.dumps(form)}; expected "json" or a valid JSON Schema object'
        )
    return _checked(form)


def _checked(schema: JsonObject) -> str:
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        # Half a surrogate pair is no character, and llama.cpp takes UTF-8 only.
        return schema_grammar(json.loads(text.encode()))
    except RecursionError as error:
        raise InvalidRequest("invalid format: the JSON schema is nested too deeply") from error
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"invalid format: the JSON schema cannot be converted: {error}") from error
