"""How long a text is in the vocabulary of a model that is elsewhere: its server's word, or an estimate."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, TypeVar

import httpx2

from server.domain.chat import JsonObject, RunOptions
from server.remote.ollama import Ollama
from server.remote.openai import OpenAi
from server.remote.spec import RemoteSpec
from server.remote.wire import Chat

logger = logging.getLogger("llm-optimizer")

COUNTING_S = 10.0
"""A count that takes longer helps nobody."""

_BYTES_PER_TOKEN = 3.3
_TOKENS_PER_MESSAGE = 5
"""Prose has some four bytes to a token and code three: rather too many tokens than too few."""

_REST_S = 30.0
"""After a count that failed: a chat has many texts, and each would wait as long."""

_OK = 200

What = TypeVar("What")


class Way(Enum):
    """Who counts."""

    UNKNOWN = auto()
    OURS = auto()
    """``/api/tokenize`` of an llm-optimizer, which takes chats as well."""
    LLAMA = auto()
    """``/apply-template`` and ``/tokenize`` of llama-server."""
    VLLM = auto()
    """``/tokenize`` of vLLM and SGLang, which takes chats as well."""
    ESTIMATE = auto()
    """Nobody: Ollama and paid services have no such route."""


def estimated(text: str) -> int:
    """Tokens of ``text``, by its length alone: the same text always counts the same."""
    return estimated_of(len(text.encode()))


def estimated_of(size_bytes: int) -> int:
    """The same of a text of that length."""
    return int(size_bytes / _BYTES_PER_TOKEN) + 1 if size_bytes else 0


def estimated_chat(body: Mapping[str, Any]) -> int:
    """Tokens of a chat as OpenAI's API takes it."""
    texts = [estimated(_text_of(part)) for part in (*body["messages"], *body.get("tools", ()))]
    return sum(texts) + _TOKENS_PER_MESSAGE * len(texts)


def _text_of(part: Any) -> str:
    """What a message or a tool holds, without the JSON around it."""
    if isinstance(part, Mapping):
        return " ".join(map(_text_of, part.values()))
    if isinstance(part, str):
        return part
    return " ".join(map(_text_of, part)) if isinstance(part, Sequence) else str(part)


class Counter:
    """Counts for one model. Blocks while the server is asked; any thread may call."""

    def __init__(self, spec: RemoteSpec, http: httpx2.Client) -> None:
        self._spec = spec
        self._http = http
        self._way = Way.UNKNOWN if spec.exact else Way.ESTIMATE
        self._rests_until_s = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether the server counts, as far as is known, and does so now."""
        return self._way not in (Way.UNKNOWN, Way.ESTIMATE) and not self._rests

    @property
    def _rests(self) -> bool:
        return time.monotonic() < self._rests_until_s

    def count(self, text: str) -> int:
        """Tokens of a piece of text."""
        if not text:
            return 0
        told = self._told(self._of_text, text)
        return estimated(text) if told is None else told

    def count_chat(self, chat: Chat) -> tuple[int, bool]:
        """Tokens of a chat as its model reads it, and whether they were counted."""
        told = self._told(self._of_chat, chat)
        return (estimated_chat(_for_openai(self._spec, chat)), False) if told is None else (told, True)

    def _told(self, ask: Callable[[What], int | None], what: What) -> int | None:
        """The server's word; None: it has none, now or ever."""
        if self._way is Way.ESTIMATE:
            return None
        if self._rests:
            return None
        try:
            if self._way is Way.UNKNOWN:
                self._find_way()
            return ask(what)
        except (httpx2.HTTPError, KeyError, TypeError, ValueError) as error:
            logger.info("%s counts no tokens for now: %s", self._spec.host, error or type(error).__name__)
            self._rests_until_s = time.monotonic() + _REST_S
            return None

    def _find_way(self) -> None:
        """Which of the routes that count this server has. Where it cannot be reached, nothing is settled."""
        ours = self._post("/api/tokenize", {"model": self._spec.model, "content": "a"})
        if ours is not None and "count" in ours:
            self._way = Way.OURS
            return
        # llama-server reads "content" and vLLM "prompt": either ignores what it does not know.
        told = self._post("/tokenize", {"model": self._spec.model, "content": "a", "prompt": "a"})
        if told is not None and "count" in told:
            self._way = Way.VLLM
        elif told is not None and "tokens" in told:
            self._way = Way.LLAMA
        else:
            self._way = Way.ESTIMATE
        if self._way is Way.ESTIMATE:
            logger.info("%s counts no tokens for others: they are estimated", self._spec.host)

    def _of_text(self, text: str) -> int | None:
        match self._way:
            case Way.OURS:
                return self._number("/api/tokenize", {"content": text, "parse_special": False})
            case Way.VLLM:
                return self._number("/tokenize", {"prompt": text, "add_special_tokens": False})
            case Way.LLAMA:
                told = self._post("/tokenize", {"content": text, "add_special": False})
                return None if told is None else len(told["tokens"])
            case _:
                return None

    def _of_chat(self, chat: Chat) -> int | None:
        match self._way:
            case Way.OURS:
                return self._number("/api/tokenize", _for_ollama(self._spec, chat))
            case Way.VLLM:
                asked = {**_for_openai(self._spec, chat), "add_generation_prompt": True}
                return self._number("/tokenize", asked)
            case Way.LLAMA:
                written = self._post("/apply-template", _for_openai(self._spec, chat))
                return None if written is None else self._length(written["prompt"])
            case _:
                return None

    def _length(self, prompt: str) -> int | None:
        told = self._post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
        return None if told is None else len(told["tokens"])

    def _number(self, path: str, body: JsonObject) -> int | None:
        told = self._post(path, {"model": self._spec.model, **body})
        return None if told is None else int(told["count"])

    def _post(self, path: str, body: JsonObject) -> dict[str, Any] | None:
        """The object that a route answers with; None: it does not, and says so."""
        answer = self._http.post(f"{self._spec.root}{path}", json=body)
        told = answer.json() if answer.status_code == _OK else None
        return told if isinstance(told, dict) else None


def _for_openai(spec: RemoteSpec, chat: Chat) -> JsonObject:
    """A chat as OpenAI's API takes it, as far as it is counted."""
    _, body = OpenAi().chat(spec.model, chat, RunOptions())
    return {name: body[name] for name in ("messages", "tools", "chat_template_kwargs") if name in body}


def _for_ollama(spec: RemoteSpec, chat: Chat) -> JsonObject:
    """The same for Ollama's API."""
    _, body = Ollama(spec.context_tokens).chat(spec.model, chat, RunOptions())
    return {name: body[name] for name in ("messages", "tools", "think") if name in body}
