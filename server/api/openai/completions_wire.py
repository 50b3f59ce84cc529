"""Bodies of ``/v1/completions``: JSON to the domain, and the domain to JSON."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from server.api.bodies import shown
from server.api.figures import what_was_done
from server.api.openai.chat_wire import FINGERPRINT
from server.api.openai.figures import LegacyLogprobs, finish_reason, usage
from server.api.openai.run import Run, StreamOptions
from server.api.openai.sse import DONE, error_event, event
from server.api.options import read_logprobs
from server.domain.chat import AnswerDelta, CompletionRequest, RunOptions
from server.domain.errors import InvalidRequest, ServiceError
from server.domain.generation import TokenScore
from server.service.report import Outcome


class CompletionBody(Run):
    """``POST /v1/completions``. ``raw`` is Ollama's: the prompt is read as it is, without a template."""

    prompt: Any = None
    suffix: str = ""
    max_tokens: int | None = None
    reasoning_effort: Any = None
    logprobs: int | None = None
    stream_options: StreamOptions = StreamOptions()
    n: int = 1
    best_of: int = 1
    echo: bool = False
    raw: bool = False

    def to_domain(self) -> CompletionRequest:
        """Raises InvalidRequest."""
        options = self._options()
        self._refuse_what_is_missing_here()
        return CompletionRequest(
            model=self.model,
            prompt=_text(self.prompt),
            suffix=self.suffix,
            raw=self.raw,
            options=options,
            stream=self.stream,
            route="/v1/completions",
        )

    def _options(self) -> RunOptions:
        options = self.run_options(max_tokens=self.max_tokens, effort=self.reasoning_effort)
        return replace(
            options,
            alternatives=read_logprobs(self.logprobs is not None, self.logprobs or 0),
            # This answer has no place for thoughts: nobody would see why the words are so late.
            think=False if options.think is None else options.think,
        )

    def _refuse_what_is_missing_here(self) -> None:
        for name, count in (("n", self.n), ("best_of", self.best_of)):
            if count != 1:
                raise InvalidRequest(
                    f"{name} must be 1, but it is {shown(count)}: a request gets one answer; "
                    "send it again for another"
                )
        if self.echo:
            raise InvalidRequest("echo is not supported: put the prompt in front of the answer yourself")


def _text(prompt: Any) -> str:
    """The one prompt, alone or in a list."""
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt):
        raise InvalidRequest(f"prompt must be one text, but there are {len(prompt)}; send a request for each")
    raise InvalidRequest(
        f"prompt must be a string, but it is {shown(prompt)}; send the text where you have token ids"
    )


class CompletionAnswer:
    """Writes the answer to one prompt."""

    def __init__(self, body: CompletionBody) -> None:
        self._body = body
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._logprobs = LegacyLogprobs()

    def opening(self) -> Iterator[bytes]:
        """Nothing: a piece of text is all that this answer has."""
        return iter(())

    def pieces(self, delta: AnswerDelta) -> Iterator[bytes]:
        """A chunk, unless there is nothing new in it."""
        if delta.content or delta.thinking or delta.scores:
            yield self._chunk(self._choice(delta, None))

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """The reason of the end, the figures if they are wanted, and OpenAI's own last line."""
        ours = {"llm_optimizer": what_was_done(outcome)}
        last = self._choice(AnswerDelta(), finish_reason(outcome))
        if not self._body.stream_options.include_usage:
            yield self._chunk(last, **ours)
        else:
            yield self._chunk(last)
            yield event({**self._head(), "choices": [], "usage": usage(outcome), **ours})
        yield DONE

    def last_words(self, error: ServiceError) -> bytes:
        """Without OpenAI's last line: the answer is not complete."""
        return error_event(error)

    def whole(self, everything: AnswerDelta, outcome: Outcome) -> dict[str, Any]:
        """One object."""
        return {
            **self._head(),
            "choices": [self._choice(everything, finish_reason(outcome))],
            "usage": usage(outcome),
            "llm_optimizer": what_was_done(outcome),
        }

    def _chunk(self, choice: dict[str, Any], **beside: Any) -> bytes:
        usage_to_come = {"usage": None} if self._body.stream_options.include_usage else {}
        return event({**self._head(), "choices": [choice], **usage_to_come, **beside})

    def _choice(self, delta: AnswerDelta, reason: str | None) -> dict[str, Any]:
        reasoning = {"reasoning": delta.thinking} if delta.thinking else {}
        return {
            "text": delta.content,
            "index": 0,
            "logprobs": self._logprobs_of(delta.scores),
            "finish_reason": reason,
            **reasoning,
        }

    def _logprobs_of(self, scores: Sequence[TokenScore]) -> dict[str, Any] | None:
        return self._logprobs.of(scores) if scores else None

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._body.model,
            "system_fingerprint": FINGERPRINT,
        }
