"""OpenAI's chat completions, as vLLM, SGLang, llama-server, paid services and llm-optimizer speak them."""

import json
from collections.abc import Mapping
from typing import Any

from server.domain.chat import CompletionRequest, Message, RunOptions, ToolChoice
from server.domain.errors import RemoteFailed
from server.domain.generation import FinishReason
from server.remote.wire import (
    CallPiece,
    Chat,
    Counted,
    Piece,
    error_text,
    parsed,
    sampling_fields,
    with_call_ids,
)

_DONE = "[DONE]"


class OpenAi:
    """Implements :class:`server.remote.wire.Dialect`. The URL's path ends in ``/v1``."""

    models_path = "/models"

    def chat(self, model: str, chat: Chat, options: RunOptions) -> tuple[str, dict[str, Any]]:
        """``/chat/completions``."""
        messages = [_message(message, ids) for message, ids in with_call_ids(chat.messages)]
        body = {"model": model, "messages": messages, **_run(options), **_format(options)}
        if chat.tools:
            body["tools"] = list(chat.tools)
        if options.must_call is not None:
            body["tool_choice"] = _choice(options.must_call)
        return "/chat/completions", body | _thinking(chat.think)

    def completion(
        self, model: str, request: CompletionRequest, options: RunOptions
    ) -> tuple[str, dict[str, Any]]:
        """``/completions``."""
        body = {"model": model, "prompt": request.prompt, **_run(options), **_format(options)}
        if request.suffix:
            body["suffix"] = request.suffix
        elif request.raw:
            # Others take a prompt here as it is; an llm-optimizer, like Ollama, wants to be told.
            body["raw"] = True
        return "/completions", body

    def piece(self, line: str) -> Piece | None:
        """What an event of the stream says."""
        if not line.startswith("data:"):
            # Comments keep the connection alive; names of events say nothing that the data does not.
            return None
        data = line.removeprefix("data:").strip()
        if data == _DONE:
            return Piece(last=True)
        chunk = parsed(data)
        if "error" in chunk:
            raise RemoteFailed(error_text(chunk))
        choices = chunk.get("choices") or [{}]
        return _piece(choices[0], _counted(chunk.get("usage")))

    def names(self, listed: Mapping[str, Any]) -> list[str]:
        """The models of ``/models``."""
        return [str(model.get("id")) for model in listed.get("data") or ()]


def _message(message: Message, ids: tuple[str, ...]) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        written["tool_call_id"] = ids[0]
    elif message.tool_calls:
        written["tool_calls"] = [
            {
                "id": call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call, call_id in zip(message.tool_calls, ids, strict=True)
        ]
    return written


def _run(options: RunOptions) -> dict[str, Any]:
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    body |= sampling_fields(options)
    if options.sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in options.sampling.logit_bias}
    if options.limit_tokens is not None:
        body["max_tokens"] = options.limit_tokens
    if options.stop:
        body["stop"] = list(options.stop)
    return body


def _format(options: RunOptions) -> dict[str, Any]:
    """A call that must be made is asked for as a schema, too: llama-server leaves it to the model otherwise.
    It is found in the text then."""
    if options.format is None:
        return {}
    if isinstance(options.format, str):
        return {"response_format": {"type": "json_object"}}
    schema = {"name": "answer", "strict": True, "schema": options.format}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.name is None:
        return choice.mode.value
    return {"type": "function", "function": {"name": choice.name}}


def _thinking(think: bool | str | None) -> dict[str, Any]:
    """OpenAI has a word for how much, and none for whether: servers of open models take their template's."""
    if think is None:
        return {}
    if isinstance(think, str):
        return {"reasoning_effort": think}
    return {"chat_template_kwargs": {"enable_thinking": think}}


def _piece(choice: Mapping[str, Any], counted: Counted | None) -> Piece:
    delta = choice.get("delta") or {}
    reason = choice.get("finish_reason")
    return Piece(
        content=delta.get("content") or choice.get("text") or "",
        thinking=delta.get("reasoning_content") or delta.get("reasoning") or "",
        calls=tuple(map(_call, delta.get("tool_calls") or ())),
        reason=None if reason is None else _reason(reason),
        counted=counted,
    )


def _call(call: Mapping[str, Any]) -> CallPiece:
    function = call.get("function") or {}
    return CallPiece(
        call.get("index") or 0, call.get("id"), function.get("name"), function.get("arguments") or ""
    )


def _reason(word: str) -> FinishReason:
    return FinishReason.LENGTH if word == "length" else FinishReason.STOP


def _counted(usage: Mapping[str, Any] | None) -> Counted | None:
    if not usage:
        return None
    details = usage.get("prompt_tokens_details") or {}
    return Counted(usage.get("prompt_tokens"), details.get("cached_tokens"), usage.get("completion_tokens"))
