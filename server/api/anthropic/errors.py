"""Errors as Anthropic's clients read them."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

_KINDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_body(status: int, text: str, request_id: str) -> dict[str, Any]:
    """The object that every error of this dialect is."""
    kind = _KINDS.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": request_id}


def anthropic_refusal(status: int, text: str, request_id: str) -> Response:
    """A whole response."""
    return JSONResponse(error_body(status, text, request_id), status_code=status)
