"""Tool calls that come in pieces, put together."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.domain.chat import AnswerDelta, CallPart, ToolCall
from server.domain.errors import RemoteFailed
from server.remote.wire import CallPiece


@dataclass(slots=True)
class _Open:
    """A call that is being written."""

    index: int
    id: str | None
    name: str
    arguments: str = ""


class Calls:
    """Hands each piece on as it comes, and the whole call once the next begins or the answer ends."""

    def __init__(self) -> None:
        self._open: _Open | None = None

    def feed(self, pieces: Sequence[CallPiece]) -> Iterator[AnswerDelta]:
        """What is certain now.

        Raises:
            RemoteFailed: a call has no name, or its arguments are no JSON object.
        """
        for piece in pieces:
            if self._open is None or piece.index != self._open.index:
                yield from self._closed()
                if not piece.name:
                    raise RemoteFailed("a tool call without the name of a tool came")
                self._open = _Open(piece.index, piece.id, piece.name)
                yield AnswerDelta(call_parts=(CallPart(piece.index, "", piece.id, piece.name),))
            if piece.arguments:
                self._open.arguments += piece.arguments
                yield AnswerDelta(call_parts=(CallPart(piece.index, piece.arguments),))

    def finish(self, *, cut: bool) -> Iterator[AnswerDelta]:
        """The last call; ``cut``: the limit on length ended the answer, and half a call is dropped."""
        try:
            yield from self._closed()
        except RemoteFailed:
            if not cut:
                raise

    def _closed(self) -> Iterator[AnswerDelta]:
        if self._open is None:
            return
        call, self._open = self._open, None
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise RemoteFailed(f"a call of {call.name} came whose arguments are no JSON object")
        yield AnswerDelta(tool_calls=(ToolCall(call.name, arguments, call.id),))
