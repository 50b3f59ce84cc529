"""One line in the log for each request, with what was done and what it took; never with a word of it."""

import logging
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from server.domain.account import Ending, Record, Work

logger = logging.getLogger("llm-optimizer")

PROBES = frozenset({"/metrics", "/health", "/health/ready", "/health/gpu"})
"""Asked every few seconds by programs: where all is well they are logged as debug."""

_FAULTS = frozenset({Ending.INTERNAL, Ending.LOAD_FAILED, Ending.ENGINE_FAILED})
_SERVER_ERROR = 500

_QUOTED = re.compile(r'(?P<name>"[\w.:/-]{1,64}")|but it is .*|[{["].*', re.DOTALL)
"""A name in quotes, or where an error's text begins to quote what the client sent."""

_LABELS = {
    "cached_tokens": "tokens_cached",
    "read_tokens": "tokens_prefilled",
    "generated_tokens": "tokens_generated",
    "guessed_tokens": "tokens_drafted",
    "accepted_tokens": "tokens_accepted",
}


def log_access(record: Record) -> None:
    """Write the line; an observer of the ledger."""
    logger.log(_level(record), "%s", access_line(record), extra={"fields": access_fields(record)})


def access_line(record: Record) -> str:
    """The request in words: ``/api/chat: smollm2:135m A, 33 tokens received, ..., 0.42 s, id req_1``."""
    return f"{record.route or record.visit.path}: {', '.join(_parts(record))}"


def access_fields(record: Record) -> dict[str, Any]:
    """The same for programs. What does not apply is left out; times are seconds."""
    visit, work = record.visit, record.work
    told = {
        "id": visit.id,
        "method": visit.method,
        "route": record.route,
        "path": visit.path,
        "client": visit.client,
        "status": record.status,
        "outcome": record.ending.value,
        "error": None if record.error is None else without_values(record.error),
        **(_figures(work) if work.model is not None else {}),
        "total_s": record.total_s,
    }
    return {name: value for name, value in told.items() if value is not None}


def without_values(text: str) -> str:
    """An error's text up to where it quotes what the client sent."""
    return _QUOTED.sub(lambda found: found["name"] or "…", text)


def _level(record: Record) -> int:
    if record.ending in _FAULTS:
        return logging.ERROR if record.status == _SERVER_ERROR else logging.WARNING
    is_probe = record.route in PROBES and record.ending is Ending.OK
    return logging.DEBUG if is_probe else logging.INFO


def _parts(record: Record) -> Iterator[str]:
    work = record.work
    if work.model is None:
        yield record.visit.method
    else:
        yield f"{work.model} {work.strategy or work.planned}" if work.planned else work.model
    if work.tokens_received is not None:
        yield f"{work.tokens_received} tokens received"
    if work.tokens_sent is not None:
        yield f"{work.tokens_sent} sent"
    if work.generated_tokens is not None:
        yield f"{work.cached_tokens} cached"
        yield f"{work.generated_tokens} generated"
    if work.first_token_s is not None:
        yield f"first token {work.first_token_s:.2f} s"
    yield _end(record)
    yield f"{record.total_s:.2f} s"
    yield f"id {record.visit.id}"


def _end(record: Record) -> str:
    if record.error is not None and record.ending is not Ending.CANCELLED:
        return f"{record.status} {record.ending.value}: {without_values(record.error)}"
    if record.work.finish is not None and record.ending in (Ending.OK, Ending.LENGTH):
        return record.work.finish
    return (
        record.ending.value if record.ending is Ending.CANCELLED else f"{record.status} {record.ending.value}"
    )


def _figures(work: Work) -> dict[str, Any]:
    found = {_LABELS.get(part.name, part.name): getattr(work, part.name) for part in fields(work)}
    return {**found, "shortened": len(work.shortened)}
