"""Errors as OpenAI's clients read them."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from server.domain.errors import ModelNotFound, PromptTooLong, ServiceError

_KINDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES_OF_STATUS: Mapping[int, str] = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_CODES: Mapping[type[ServiceError], str] = {
    PromptTooLong: "context_length_exceeded",
    ModelNotFound: "model_not_found",
}


def error_body(status: int, text: str, cause: ServiceError | None = None) -> dict[str, Any]:
    """The object that every error of this dialect is."""
    kind = _KINDS.get(status, "api_error")
    code = _CODES.get(type(cause)) if cause else _CODES_OF_STATUS.get(status)
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def openai_refusal(status: int, text: str, cause: ServiceError | None = None) -> Response:
    """A whole response."""
    return JSONResponse(error_body(status, text, cause), status_code=status)
