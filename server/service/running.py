"""An answer of a model that runs here: its engine's text as words, thinking and tool calls."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from server.chat.parse import THINK_CLOSE, AnswerParser, Expected
from server.domain.chat import AnswerDelta, AnswerEnd
from server.domain.generation import Finished, FinishReason, Generation, TextDelta, TokenScore, Usage
from server.engine.engine import Engine
from server.service.ticket import Ticket


class LocalRun:
    """Implements :class:`server.service.answering.Run`. Submits the generation at once.

    Raises:
        QueueFull, EngineFailed: it was not accepted.
    """

    def __init__(self, engine: Engine, generation: Generation, expected: Expected) -> None:
        self._engine = engine
        self._expected = expected
        self._ticket = Ticket(engine, generation)
        self.queue_position = self._ticket.queue_position
        self.submitted_ns = self._ticket.submitted_ns
        self.close = self._ticket.close

    def usage(self) -> Usage:
        """What it has cost up to now, or up to its end."""
        return self._ticket.usage()

    async def parts(self) -> AsyncIterator[AnswerDelta | AnswerEnd]:
        """Everything up to the end. Raises the ServiceError that the generation ended with."""
        parser = AnswerParser(self._expected)
        scores: tuple[TokenScore, ...] = ()
        thought = False
        async for event in self._ticket.events():
            ended = isinstance(event, Finished)
            scores += event.scores
            deltas = (
                parser.feed(event.text)
                if isinstance(event, TextDelta)
                else parser.finish(cut=event.reason is FinishReason.LENGTH)
            )
            if scores and (deltas or ended):
                # They go with the first text that is certain, though part of it may be held back.
                first, *others = deltas or (AnswerDelta(),)
                deltas, scores = (replace(first, scores=scores), *others), ()
            for delta in deltas:
                thought = thought or bool(delta.thinking)
                yield delta
            if isinstance(event, Finished):
                yield self._end(event, thought=thought)

    def _end(self, end: Finished, *, thought: bool) -> AnswerEnd:
        pieces = map(self._engine.model.piece, end.tokens)
        thinking_tokens = thinking_length(pieces) if thought else 0
        return AnswerEnd(end.reason, end.usage, end.tokens, end.stop, thinking_tokens)


def thinking_length(pieces: Iterable[bytes]) -> int:
    """How many tokens, given by their bytes, a model thought; all of them if it did not come to an end."""
    close, end, thought = THINK_CLOSE.encode(), b"", 0
    for piece in pieces:
        end = end[-len(close) :] + piece
        thought += 1
        if close in end:
            break
    return thought
