"""An old tool result in the helper's words, beside its outline: for logs and prose, made ahead of need."""

import hashlib
import json

from server.routing.condense import PROMPT_VERSION, Form, Helper, Limits, condense
from server.routing.keep import fenced
from server.routing.results import Kind, Result

LEAST_CHARS = 2000
"""Of less an outline leaves enough."""

LARGEST_SHARE = 0.5
"""Outline and digest together take no more of the result than this."""

_PROSE = (".md", ".rst", ".txt", ".log", ".adoc")


def wants_digest(result: Result) -> bool:
    """Whether a summary adds something to a result's outline: to logs and prose, and not to code."""
    is_prose = result.kind is Kind.FILE and result.subject.lower().endswith(_PROSE)
    return len(result.text) >= LEAST_CHARS and not result.failed and (result.kind is Kind.OUTPUT or is_prose)


def digest_key(model: str, limits: Limits, result: Result) -> str:
    """What the digest of a result is kept by: all that it depends on."""
    parts = [PROMPT_VERSION, model, limits.summary_chars, result.tool, result.subject, result.text]
    return hashlib.sha256(json.dumps(["digest", *parts]).encode()).hexdigest()


async def digest(result: Result, helper: Helper, limits: Limits) -> str:
    """The helper's words on a result, with the facts that they lost.

    Raises:
        HelperFailed: it gave nothing, or cannot read anything.
        ServiceError: its engine failed.
    """
    return "\n".join(await condense(result.text, Form.PARAGRAPH, helper, limits))


def with_digest(outline: str, words: str, result: Result) -> str | None:
    """The outline with a digest below it, fenced as data; None: that would hardly be shorter."""
    text = f"{outline}\n{fenced(words)}"
    return text if len(text) <= LARGEST_SHARE * len(result.text) else None
