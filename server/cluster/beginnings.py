"""How a request begins, as digests: two requests that share one share all text up to there.

A model reads a prompt from its beginning on, and an engine keeps what it has read. So a conversation's next
turn is cheap where its last one was answered. Nothing here knows of tokens: messages are compared as their
clients wrote them, which is what makes an engine's prefix hold as well.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.catalogue.names import ModelName
from server.domain.errors import InvalidRequest

DIGEST_BYTES = 12
FIRST_MARK_CHARS = 128
"""A single text is compared at 128 characters, at twice that, and so on: a longer one repeats its marks."""

_SYSTEM_ROLES = ("system", "developer")
_NO_PART_OF_THE_TEXT = "cache_control"
"""Anthropic's clients move these marks from message to message with each turn."""


@dataclass(frozen=True, slots=True)
class Beginnings:
    """``model`` is the name as lists show it, in lower case, and empty where none is named.

    ``opening`` stands for the model, its system prompt and tools, which many conversations share. ``turns``
    are cumulative, message by message: the first one tells conversations apart.
    """

    model: str = ""
    opening: bytes | None = None
    turns: tuple[bytes, ...] = ()

    @property
    def root(self) -> bytes | None:
        """What is the same for all turns of a conversation."""
        return self.turns[0] if self.turns else self.opening


def beginnings_of(path: str, body: Mapping[str, Any]) -> Beginnings:
    """How a request begins whose body, of whichever dialect, is ``body``. What is wrong with it is for the
    service to say: here it counts as absent."""
    named = body.get("model") or body.get("name")
    model = folded(named) if isinstance(named, str) else ""
    if not model:
        return Beginnings()
    opening, items = _parts(path, body)
    if not (opening or items):
        return Beginnings(model)
    first, *turns = _cumulative([[model, *opening], *items])
    return Beginnings(model, first, tuple(turns))


def folded(name: str) -> str:
    """A model's name in the one form that all its spellings share."""
    try:
        return ModelName.parse(name).display.casefold()
    except InvalidRequest:
        return name.casefold()


def _parts(path: str, body: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """What conversations share, and what follows one after the other."""
    shared = [body[key] for key in ("system", "instructions", "tools") if body.get(key)]
    if path == "/v1/responses":
        return _split(shared, body.get("input"))
    if path in ("/api/generate", "/v1/completions"):
        return shared, list(_marks(_one_text(body)))
    return _split(shared, body.get("messages"))


def _split(shared: list[Any], items: Any) -> tuple[list[Any], list[Any]]:
    """System messages at the front of a chat belong to what is shared."""
    if isinstance(items, str):
        return shared, [items]
    if not isinstance(items, list):
        return shared, []
    front = 0
    while front < len(items) and _role_of(items[front]) in _SYSTEM_ROLES:
        front += 1
    return [*shared, *items[:front]], items[front:]


def _role_of(item: Any) -> Any:
    return item.get("role") if isinstance(item, dict) else None


def _one_text(body: Mapping[str, Any]) -> str:
    """The prompt behind what went before it, which Ollama's clients hand back as tokens."""
    before, prompt = body.get("context"), body.get("prompt")
    front = " ".join(map(str, before)) if isinstance(before, list) else ""
    return front + (prompt if isinstance(prompt, str) else json.dumps(prompt) if prompt else "")


def _marks(text: str) -> Iterator[str]:
    """``text`` in pieces, each as long as all before it."""
    begin, end = 0, FIRST_MARK_CHARS
    while begin < len(text):
        yield text[begin:end]
        begin, end = end, 2 * end


def _cumulative(items: Iterable[Any]) -> Iterator[bytes]:
    digest = b""
    for item in items:
        text = json.dumps(_plain(item), sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.blake2b(digest + text, digest_size=DIGEST_BYTES).digest()
        yield digest


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != _NO_PART_OF_THE_TEXT}
    return value
