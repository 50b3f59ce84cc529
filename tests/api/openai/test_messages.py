"""Messages of chat completions, in every shape in which clients write them."""

import base64
from typing import Any

import httpx
import pytest

from tests.api.asking import HELLO, eventually
from tests.api.openai.asking import answer_of, chat, error_of

PNG = base64.b64encode(b"\x89PNG").decode()
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": ["x", 1]}'}}


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]


def test_text_parts_stay_one_message(client: httpx.Client) -> None:
    one = answer_of(chat(client, messages=[{"role": "user", "content": "Define\ngravity."}]))
    known = {
        **one["usage"],
        "prompt_tokens_details": {"cached_tokens": one["usage"]["prompt_tokens"]},
    }

    def in_parts() -> object:
        return answer_of(chat(client, messages=parts("Define", "gravity.")))["usage"]

    # What an earlier test has left running may push short conversations out of the cache.
    assert eventually(lambda: in_parts() == known)


GOOD: dict[str, list[dict[str, Any]]] = {
    "developer": [{"role": "developer", "content": "Be brief."}, *HELLO],
    "system in the middle": [*HELLO, {"role": "system", "content": "Be brief."}, *HELLO],
    "upper case": [{"role": "User", "content": "Hi"}],
    "no parts": parts(),
    "refusal": [
        *HELLO,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        *HELLO,
    ],
    "tool": [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "5", "tool_call_id": "call_1"},
        {"role": "tool", "content": [{"type": "text", "text": "6"}], "tool_call_id": "call_2"},
    ],
    "no calls": [*HELLO, {"role": "assistant", "tool_calls": []}, *HELLO],
    "no arguments": [
        {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": ""}}]},
        *HELLO,
    ],
    "thinking": [*HELLO, {"role": "assistant", "content": "x", "reasoning_content": "hm"}, *HELLO],
    "assistant last": [*HELLO, {"role": "assistant", "content": "He"}],
}


@pytest.mark.parametrize("messages", GOOD.values(), ids=GOOD.keys())
def test_messages_of_any_shape_are_answered(client: httpx.Client, messages: list[dict[str, Any]]) -> None:
    answer_of(chat(client, messages=messages))


def called(arguments: Any) -> list[dict[str, Any]]:
    return [
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": arguments}}]}
    ]


def said(part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part]}]


def shows(url: Any) -> list[dict[str, Any]]:
    return said({"type": "image_url", "image_url": {"url": url}})


BAD: dict[str, tuple[Any, str]] = {
    "none": ([], "[] is too short - 'messages'"),
    "no role": ([{"content": "Hi"}], "messages.0.role is missing"),
    "no content": ([{"role": "user"}], "invalid message content type: <nil>; messages.0.content"),
    "null": ([{"role": "assistant", "content": None}], "invalid message content type: <nil>"),
    "number": ([{"role": "user", "content": 5}], "invalid message content type: messages.0.content must be"),
    "no part": (said(5), "invalid message format: messages.0.content.0 must be a text or an image"),
    "audio": (
        said({"type": "input_audio", "input_audio": {}}),
        "invalid message format: messages.0.content.0",
    ),
    "no text": (said({"type": "text"}), "messages.0.content.0.text must be a string, but it is null"),
    "address": (shows("https://example.org/a.png"), "nothing is fetched from elsewhere"),
    "another image": (shows(f"data:image/gif;base64,{PNG}"), "must be a data: URL"),
    "no URL": (shows(None), "must be a data: URL"),
    "base64": (shows("data:;base64,!!"), "illegal base64 data"),
    "image": (shows(f"data:image/png;base64,{PNG}"), "does not support image input"),
    "image as text": (said({"type": "image_url", "image_url": f"data:;base64,{PNG}"}), "image input"),
    "arguments": (called("{"), "invalid tool call arguments: messages.0.tool_calls.0.function.arguments"),
    "a list of arguments": (called("[1]"), "invalid tool call arguments"),
    "deep arguments": (called("[" * 100_000), "invalid tool call arguments"),
    "arguments as object": (called({}), "function.arguments must be a string, but it is {}"),
    "function": ([{"role": "function", "name": "f", "content": "5"}], "send tool_calls and the role tool"),
    "function call": (
        [{"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}}],
        "messages.0: function_call and the role function are not supported",
    ),
}


@pytest.mark.parametrize(("messages", "words"), BAD.values(), ids=BAD.keys())
def test_messages_of_a_wrong_shape_are_errors(client: httpx.Client, messages: Any, words: str) -> None:
    assert words in error_of(chat(client, messages=messages))
