"""What goes wrong with another server, in words, and whether another try may help."""

from collections.abc import Mapping

import httpx2

from server.domain.errors import InvalidRequest, RemoteAway, RemoteFailed, ServiceError
from server.remote.spec import RemoteSpec
from server.remote.wire import error_text, parsed

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404
_TOO_LARGE, _UNPROCESSABLE, _TOO_MANY = 413, 422, 429
_BUSY = frozenset({408, 425, _TOO_MANY, 502, 503, 504})
_LONGEST_WAIT_S = 30.0


class Trouble(Exception):
    """A try that has failed with ``error``. ``again``: before the first word, another one may succeed.

    ``is_ill``: the server is to blame, and not the request. ``wait_s`` is how long it asks to be left alone.
    """

    def __init__(
        self, error: ServiceError, *, again: bool, is_ill: bool = True, wait_s: float | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.is_ill = is_ill
        self.wait_s = wait_s


def of_connection(spec: RemoteSpec, error: httpx2.HTTPError) -> Trouble:
    """The connection failed, or broke."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        reason = f"no connection within {spec.connect_s:g} s"
        if not isinstance(error, httpx2.TimeoutException):
            reason = str(error) or type(error).__name__
        text = f"{spec.host}, which runs {spec.model}, cannot be reached: {reason}"
        return Trouble(RemoteAway(text), again=True)
    text = f"{spec.host} broke the connection off: {str(error) or type(error).__name__}"
    return Trouble(RemoteFailed(text), again=True)


def of_silence(spec: RemoteSpec, seconds: float, *, begun: bool) -> Trouble:
    """It said nothing for too long. Before the first token another try would wait as long again."""
    setting = "remote_silence_s" if begun else "remote_first_token_s"
    text = f"{spec.host} has said nothing for {seconds:g} s (see the setting {setting})"
    return Trouble(RemoteFailed(text), again=False)


def of_end(spec: RemoteSpec) -> Trouble:
    """The stream ended without an end of the answer."""
    return Trouble(RemoteFailed(f"{spec.host} ended the answer in its middle"), again=True)


def of_status(spec: RemoteSpec, status: int, headers: Mapping[str, str], body: str) -> Trouble:
    """It answered with a status that is none of success."""
    said = _said(body)
    if status in (_BAD_REQUEST, _TOO_LARGE, _UNPROCESSABLE):
        return Trouble(InvalidRequest(f"{spec.host} refuses the request: {said}"), again=False, is_ill=False)
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        text = f"{spec.host} refuses this service (status {status}: {said}): see the setting remote_key_file"
        return Trouble(RemoteFailed(text), again=False)
    if status == _NOT_FOUND:
        text = (
            f"{spec.host} has no model {spec.model} at {spec.url} (status {status}: {said}): see the "
            "settings remote_url, remote_api and remote_model"
        )
        return Trouble(RemoteFailed(text), again=False)
    if status in _BUSY:
        text = f"{spec.host} takes nothing for now (status {status}: {said})"
        limited = status == _TOO_MANY
        return Trouble(RemoteAway(text), again=True, is_ill=not limited, wait_s=_wait_s(headers))
    return Trouble(RemoteFailed(f"{spec.host} failed (status {status}: {said})"), again=True)


def _said(body: str) -> str:
    try:
        return error_text(parsed(body))
    except RemoteFailed:
        return " ".join(body.split())[:200] or "no reason given"


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` in seconds; None: it is not there, or a date."""
    text = headers.get("retry-after", "")
    return min(float(text), _LONGEST_WAIT_S) if text.isdecimal() else None
