"""Ollama's own API, as Ollama and llm-optimizer speak it."""

import json
from collections.abc import Mapping
from typing import Any

from server.domain.chat import CompletionRequest, Message, RunOptions
from server.domain.errors import RemoteFailed
from server.domain.generation import FinishReason
from server.remote.wire import CallPiece, Chat, Counted, Piece, error_text, parsed, sampling_fields


class Ollama:
    """Implements :class:`server.remote.wire.Dialect`. ``context_tokens`` is the window that is asked for:
    Ollama's own is small, and what does not fit it would be cut without a word."""

    models_path = "/api/tags"

    def __init__(self, context_tokens: int) -> None:
        self._context_tokens = context_tokens
        self._calls = 0

    def chat(self, model: str, chat: Chat, options: RunOptions) -> tuple[str, dict[str, Any]]:
        """``/api/chat``."""
        messages = [_message(message) for message in chat.messages]
        body: dict[str, Any] = {"model": model, "messages": messages}
        if chat.tools:
            body["tools"] = list(chat.tools)
        if chat.think is not None:
            body["think"] = chat.think
        return "/api/chat", body | self._run(options)

    def completion(
        self, model: str, request: CompletionRequest, options: RunOptions
    ) -> tuple[str, dict[str, Any]]:
        """``/api/generate``."""
        body: dict[str, Any] = {"model": model, "prompt": request.prompt}
        body |= {"suffix": request.suffix} if request.suffix else {"raw": True}
        return "/api/generate", body | self._run(options)

    def piece(self, line: str) -> Piece | None:
        """What a line of the stream says."""
        if not line.strip():
            return None
        chunk = parsed(line)
        if "error" in chunk:
            raise RemoteFailed(error_text(chunk))
        message = chunk.get("message") or {}
        done = bool(chunk.get("done"))
        return Piece(
            content=message.get("content") or chunk.get("response") or "",
            thinking=message.get("thinking") or chunk.get("thinking") or "",
            calls=self._numbered(message.get("tool_calls") or ()),
            reason=_reason(chunk) if done else None,
            counted=_counted(chunk) if done else None,
            last=done,
        )

    def names(self, listed: Mapping[str, Any]) -> list[str]:
        """The models of ``/api/tags``."""
        return [str(model.get("name")) for model in listed.get("models") or ()]

    def _numbered(self, calls: Any) -> tuple[CallPiece, ...]:
        """Calls come whole, and without numbers."""
        pieces = []
        for call in calls:
            function = call.get("function") or {}
            arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
            pieces.append(CallPiece(self._calls, call.get("id"), function.get("name"), arguments))
            self._calls += 1
        return tuple(pieces)

    def _run(self, options: RunOptions) -> dict[str, Any]:
        wanted: dict[str, Any] = {"num_ctx": self._context_tokens, **dict(sampling_fields(options))}
        if options.limit_tokens is not None:
            wanted["num_predict"] = options.limit_tokens
        if options.stop:
            wanted["stop"] = list(options.stop)
        body: dict[str, Any] = {"stream": True, "truncate": False, "options": wanted}
        if options.format is not None:
            body["format"] = options.format
        return body


def _message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        written["thinking"] = message.thinking
    if message.tool_calls:
        written["tool_calls"] = [
            {"function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.tool_name:
        written["tool_name"] = message.tool_name
    return written


def _reason(chunk: Mapping[str, Any]) -> FinishReason:
    return FinishReason.LENGTH if chunk.get("done_reason") == "length" else FinishReason.STOP


def _counted(chunk: Mapping[str, Any]) -> Counted:
    return Counted(chunk.get("prompt_eval_count"), None, chunk.get("eval_count"))
