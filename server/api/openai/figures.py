"""What an answer cost and how sure the model was, as OpenAI's clients read it."""

import codecs
from collections.abc import Iterable
from typing import Any

from server.api.figures import LEAST_LOGPROB
from server.domain.generation import FinishReason, TokenScore
from server.service.report import Outcome


def usage(outcome: Outcome) -> dict[str, Any]:
    """Of chat and text completions. The prompt counts as the client sent it, shortened or not."""
    sent, said = outcome.routing.tokens_received, outcome.usage.generated_tokens
    return {
        "prompt_tokens": sent,
        "completion_tokens": said,
        "total_tokens": sent + said,
        "prompt_tokens_details": {"cached_tokens": outcome.usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": outcome.thinking_tokens},
    }


def response_usage(outcome: Outcome) -> dict[str, Any]:
    """The same figures under the names of ``/v1/responses``."""
    told = usage(outcome)
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": told["prompt_tokens_details"],
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": told["completion_tokens_details"],
        "total_tokens": told["total_tokens"],
    }


def finish_reason(outcome: Outcome, *, calls: bool = False) -> str:
    """``calls`` says whether the answer holds tool calls; one that was cut off may lack the end of them."""
    if outcome.reason is FinishReason.LENGTH:
        return "length"
    return "tool_calls" if calls else "stop"


def token_logprobs(scores: Iterable[TokenScore]) -> list[dict[str, Any]]:
    """Each token with those that were likely in its place."""
    return [
        {**_token(score), "top_logprobs": [_token(other) for other in score.alternatives]} for score in scores
    ]


def _token(score: TokenScore) -> dict[str, Any]:
    return {"token": _text(score), "logprob": _logprob(score), "bytes": list(score.piece)}


class LegacyLogprobs:
    """Those of ``/v1/completions``: lists side by side. Counts the characters of all tokens up to now."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def of(self, scores: Iterable[TokenScore]) -> dict[str, Any]:
        """Of the next tokens. ``text_offset`` is where a token's first character begins in the text."""
        known = tuple(scores)
        return {
            "tokens": [_text(score) for score in known],
            "token_logprobs": [_logprob(score) for score in known],
            "top_logprobs": [_likely(score) for score in known],
            "text_offset": [self._advance(score) for score in known],
        }

    def _advance(self, score: TokenScore) -> int:
        begun = self._offset
        self._offset += len(self._decoder.decode(score.piece))
        return begun


def _likely(score: TokenScore) -> dict[str, float]:
    return {_text(other): _logprob(other) for other in score.alternatives}


def _text(score: TokenScore) -> str:
    return score.piece.decode("utf-8", "replace")


def _logprob(score: TokenScore) -> float:
    return max(score.logprob, LEAST_LOGPROB)
