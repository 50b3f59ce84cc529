"""The end of a stream whose replica is gone, in the words of its dialect."""

import json

from server.api.anthropic.errors import error_body as anthropic_error
from server.api.anthropic.stream import event_bytes
from server.api.http import EVENT_STREAM
from server.api.ollama.wire import NDJSON, error_line
from server.api.openai.sse import error_event, event
from server.domain.errors import ServiceError

LOST = "the machine that was answering is gone; please ask again"
_STATUS = 503


class MachineLost(ServiceError):
    """The replica that worked on the request is gone."""

    def __init__(self) -> None:
        super().__init__(LOST)


def last_words(path: str, media_type: str, request_id: str) -> bytes | None:
    """What ends the stream; None for an answer that is none, and can only be broken off."""
    if media_type == NDJSON:
        return error_line(MachineLost())
    if media_type != EVENT_STREAM:
        return None
    # An empty line first: the event before may have been cut in its middle.
    return b"\n\n" + _last_event(path, request_id)


def _last_event(path: str, request_id: str) -> bytes:
    if path.startswith("/v1/messages"):
        return event_bytes(anthropic_error(_STATUS, LOST, request_id))
    if path == "/v1/responses":
        # How OpenAI tells of an error when there is no response left to be failed.
        return event({"type": "error", "code": "server_error", "message": LOST, "param": None}, "error")
    if path.startswith("/v1/"):
        return error_event(MachineLost())
    return b"data: " + json.dumps({"error": LOST}).encode() + b"\n\n"
