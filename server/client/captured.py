"""Requests that lie in files: a plain body, or a capture with method, path, headers and body."""

import json
from dataclasses import dataclass
from typing import Any

from server.client.errors import ClientError
from server.client.wire import CHAT, POLICY_HEADER


@dataclass(frozen=True, slots=True)
class Captured:
    """What was asked, and where."""

    path: str
    body: dict[str, Any]
    policy: str | None = None
    """What its header asked of the router."""


def read_captured(text: str) -> Captured:
    """The request in the text of a file.

    Raises:
        ClientError: there is none in it.
    """
    told = _object(text, "the file")
    if "body" not in told or "messages" in told:
        return Captured(CHAT, told)
    body = told["body"]
    if isinstance(body, str):
        body = _object(body, "the body of the capture")
    if not isinstance(body, dict):
        raise ClientError("the body of the capture is no JSON object")
    path = str(told.get("path") or CHAT).partition("?")[0]
    headers = told.get("headers")
    return Captured(path, body, _header(headers, POLICY_HEADER))


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except RecursionError:
        raise ClientError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ClientError(f"{what} is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise ClientError(f"{what} must be a JSON object")
    return told


def _header(headers: Any, wanted: str) -> str | None:
    """Headers come as an object, or as a list of pairs."""
    pairs = headers.items() if isinstance(headers, dict) else headers if isinstance(headers, list) else ()
    for pair in pairs:
        match pair:
            case (str(name), str(value)) | [str(name), str(value)]:
                if name.casefold() == wanted.casefold():
                    return value
    return None
