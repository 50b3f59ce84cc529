"""JSON from anybody: what is wrong with it is said, and no text of any size or shape holds the server up.

Python's fast reader lets nothing else of the process run while it works, which is too long for a text of a
million values. Such texts go through Python's slower one, in a thread, beside which everything goes on.
"""

import json
import json.decoder
import json.scanner
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from server.domain.errors import InvalidRequest

DEEPEST = 200
"""Far beyond any JSON schema, and far below where Python's recursion ends."""

MOST_CONTAINERS = 20_000
"""Objects and lists: what goes through them all one by one must come to an end soon. The longest session of
an agent has a third of that."""

_MANY_SIGNS = 50_000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HALVES = re.compile("[\ud800-\udfff]+")


def parsed_json(body: bytes) -> dict[str, Any]:
    """The first JSON value of ``body``, which must be an object.

    Raises:
        InvalidRequest: with what is wrong.
    """
    if not body.strip():
        raise InvalidRequest("missing request body")
    try:
        text = body.decode("utf-8-sig").lstrip()
        value, _ = _decoder(body).raw_decode(text)
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the request body is not UTF-8: {error.reason} at byte {error.start}"
        ) from error
    except RecursionError as error:
        raise InvalidRequest("the request body is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the request body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the request body must be a JSON object")
    _refuse_deep_or_many(value)
    return _without_halves(value) if _SURROGATE.search(text) else value


def _decoder(body: bytes) -> json.JSONDecoder:
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MANY_SIGNS:
        # Commas in long texts are counted as well: the slower reader is as fast with those.
        decoder.scan_once = json.scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    return decoder


def _refuse_deep_or_many(value: dict[str, Any]) -> None:
    """Whatever walks through the value later may then do so recursively, and to its end."""
    level: list[Any] = [value]
    containers = 1
    for _ in range(DEEPEST):
        level = [item for holder in level for item in _items(holder) if isinstance(item, dict | list)]
        if not level:
            return
        containers += len(level)
        if containers > MOST_CONTAINERS:
            raise InvalidRequest(f"the request body has more than {MOST_CONTAINERS} objects and lists in it")
    raise InvalidRequest("the request body is nested too deeply")


def _items(holder: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return holder.values() if isinstance(holder, dict) else holder


def _without_halves(value: Any) -> Any:
    """Halves of surrogate pairs become U+FFFD, as in Go: no encoder takes them, ours neither."""
    if isinstance(value, str):
        return _HALVES.sub(lambda found: "\ufffd" * len(found[0]), value)
    if isinstance(value, list):
        return [_without_halves(item) for item in value]
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(item) for key, item in value.items()}
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
