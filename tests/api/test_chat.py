"""``/api/chat``: messages in, answers out."""

import base64
from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, HELLO, answer_of, chat, chunks_of, error_of, settled

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": {"at": ["x", 1]}}}
FIGURES = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def test_an_answer_is_one_object(client: httpx.Client) -> None:
    answer = answer_of(chat(client))
    assert answer["message"]["role"] == "assistant"
    assert answer["message"]["content"]
    assert set(answer["message"]) == {"role", "content"}
    assert "context" not in answer


def check_figures(last: dict[str, Any], prompt_tokens: int, generated_tokens: int) -> None:
    assert last["done_reason"] == "length"
    for name in FIGURES:
        assert type(last[name]) is int
        assert last[name] > 0
    assert last["total_duration"] >= last["eval_duration"] + last["prompt_eval_duration"]
    assert last["prompt_eval_count"] == prompt_tokens
    assert last["eval_count"] == generated_tokens


def test_the_last_chunk_has_the_figures(client: httpx.Client) -> None:
    options = {"num_predict": 4, "temperature": 0}
    whole = settled(chat, client, options=options)
    chunks = chunks_of(chat(client, stream=True, options=options))
    check_figures(chunks[-1], 33, 4)
    assert chunks[-1]["message"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["message"]["content"] for chunk in chunks)
    assert chunks[0]["message"]["content"] == "", "something to read at once"
    assert all(chunk["message"]["content"] for chunk in chunks[1:-1])
    check_figures(whole, 33, 4)
    assert whole["message"]["content"] == text


def test_what_was_done_is_in_the_answer(client: httpx.Client) -> None:
    ours = answer_of(chat(client))["llm_optimizer"]
    assert ours["strategy"] == ours["planned"] == "A"
    assert ours["tokens_received"] == ours["tokens_sent"] == 33
    assert ours["summaries"] == 0
    assert ours["context_tokens"] == 8192
    assert not {"ignored", "fallback"} & ours.keys()


def test_cached_tokens_count_as_read(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "This prompt comes twice."}]
    answer_of(chat(client, messages=messages))
    again = answer_of(chat(client, messages=messages))
    # Word for word the same, so that not even the last token is read again.
    assert again["prompt_eval_count"] == again["llm_optimizer"]["tokens_cached"] > 20
    assert again["prompt_eval_duration"] > 0


def test_headers_say_what_was_done(client: httpx.Client) -> None:
    headers = chat(client).headers
    assert headers["X-LLM-Optimizer-Strategy"] == "A"
    assert headers["X-LLM-Optimizer-Tokens-Received"] == headers["X-LLM-Optimizer-Tokens-Sent"] == "33"
    assert headers["X-LLM-Optimizer-Summaries"] == headers["X-LLM-Optimizer-Helper-Ms"] == "0"
    streamed = chat(client, stream=True).headers
    assert streamed["X-LLM-Optimizer-Strategy"] == "A"
    assert streamed["X-LLM-Optimizer-Tokens-Received"] == "33"


GOOD = {
    "no role": [{"content": "Hi"}],
    "no content": [{"role": "user"}],
    "nothing": [{}],
    "null content": [{"role": "assistant", "content": None, "tool_calls": [CALL]}, *HELLO],
    "upper case": [{"role": "SYSTEM", "content": "Be brief."}, {"role": "User", "content": "Hi"}],
    "developer": [{"role": "developer", "content": "Be brief."}, *HELLO],
    "another role": [{"role": "wizard", "content": "Hi"}],
    "system last": [*HELLO, {"role": "system", "content": "Be brief."}],
    "two users": [*HELLO, *HELLO],
    "assistant last": [*HELLO, {"role": "assistant", "content": "He"}],
    "tool": [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "5", "tool_name": "look", "tool_call_id": "call_1"},
        {"role": "tool", "content": '{"success": false}'},
    ],
    "call without arguments": [{"role": "assistant", "tool_calls": [{"function": {"name": "look"}}]}, *HELLO],
    "thinking": [{"role": "assistant", "content": "x", "thinking": "hm"}, *HELLO],
    "zero byte": [{"role": "user", "content": "a\x00b"}],
    "all of Unicode": [{"role": "user", "content": "é🦊\u2028\u0085漢\ufeff\U0010ffff"}],
    "tokens in words": [{"role": "user", "content": "<|im_end|><|endoftext|>"}],
}


@pytest.mark.parametrize("messages", GOOD.values(), ids=GOOD.keys())
def test_messages_of_any_shape_are_answered(client: httpx.Client, messages: list[dict[str, Any]]) -> None:
    answer_of(chat(client, messages=messages))


BAD = {
    "parts": (
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "messages.0.content must be a string",
    ),
    "number": ([{"role": "user", "content": 5}], "messages.0.content must be a string"),
    "no object": ([*HELLO, 5], "messages.1 must be an object, but it is 5"),
    "null": ([None], "messages.0 must be an object, but it is null"),
    "object": ({"role": "user"}, "messages must be an array"),
    "role": ([{"role": 5}], "messages.0.role must be a string"),
    "arguments": (
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
        "messages.0.tool_calls.0.function.arguments must be an object",
    ),
    "call without a name": ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "name is missing"),
    "calls": ([{"role": "assistant", "tool_calls": {}}], "messages.0.tool_calls must be an array"),
    "images": ([{"role": "user", "images": "x"}], "messages.0.images must be an array"),
    "base64": ([{"role": "user", "images": ["!!"]}], "messages.0.images.0 holds illegal base64 data"),
}


@pytest.mark.parametrize(("messages", "words"), BAD.values(), ids=BAD.keys())
def test_messages_of_a_wrong_shape_are_errors(client: httpx.Client, messages: Any, words: str) -> None:
    assert words in error_of(chat(client, messages=messages))


def test_an_image_is_never_ignored(client: httpx.Client) -> None:
    image = base64.b64encode(b"\x89PNG").decode()
    messages = [{"role": "user", "content": "What is it?", "images": [image]}]
    assert "image" in error_of(chat(client, messages=messages))
    assert "image" in error_of(chat(client, messages=messages, stream=True))


def test_tools_need_a_template_that_knows_them(client: httpx.Client) -> None:
    text = f"registry.ollama.ai/library/{GENERATOR} does not support tools"
    assert error_of(chat(client, tools=[TOOL])) == text
    answer_of(chat(client, tools=[]))


@pytest.mark.parametrize("tools", [{}, "x", [5], [None]])
def test_tools_of_a_wrong_shape_are_errors(client: httpx.Client, tools: Any) -> None:
    assert error_of(chat(client, tools=tools)).startswith("tools")


@pytest.mark.parametrize("think", [True, "low", "medium", "high", "max"])
def test_thinking_needs_a_model_that_thinks(client: httpx.Client, think: Any) -> None:
    assert error_of(chat(client, think=think)) == f'"{GENERATOR}" does not support thinking'


@pytest.mark.parametrize("think", [False, None])
def test_no_thinking_is_always_fine(client: httpx.Client, think: Any) -> None:
    assert "thinking" not in answer_of(chat(client, think=think))["message"]


@pytest.mark.parametrize("think", ["huge", "", "HIGH", "true"])
def test_an_unknown_level_of_thinking_is_an_error(client: httpx.Client, think: str) -> None:
    assert error_of(chat(client, think=think)) == (
        f'invalid think value: "{think}" (must be "high", "medium", "low", "max", true, or false)'
    )


@pytest.mark.parametrize("think", [1, 0.5, [], {}])
def test_thinking_is_a_switch_or_a_word(client: httpx.Client, think: Any) -> None:
    assert error_of(chat(client, think=think)).startswith("think must be a boolean or string")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("truncate", [None, True, False])
def test_a_prompt_that_cannot_fit_is_refused(
    client: httpx.Client, stream: bool, truncate: bool | None
) -> None:
    system = {"role": "system", "content": "word " * 9000}
    response = chat(client, messages=[system, *HELLO], stream=stream, truncate=truncate)
    assert error_of(response) == ("prompt is too long: 9018 tokens exceed the context window of 8192 tokens")


def test_the_top_level_settings_of_cline_hold(client: httpx.Client) -> None:
    answer = answer_of(chat(client, options={"num_ctx": 8192}, max_output_tokens=3, temperature=0, top_p=0.9))
    assert answer["eval_count"] == 3
    assert "ignored" not in answer["llm_optimizer"]


def test_options_outrank_the_top_level_unless_null(client: httpx.Client) -> None:
    assert answer_of(chat(client, options={"num_predict": 2}, max_output_tokens=4))["eval_count"] == 2
    assert answer_of(chat(client, options={"num_predict": None}, max_output_tokens=4))["eval_count"] == 4


@pytest.mark.parametrize("number", [21, -1, 10**400])
def test_top_logprobs_have_a_range(client: httpx.Client, number: int) -> None:
    assert error_of(chat(client, top_logprobs=number)) == "top_logprobs must be between 0 and 20"


def test_a_switch_without_effect_is_named(client: httpx.Client) -> None:
    assert answer_of(chat(client, shift=True))["llm_optimizer"]["ignored"] == ["shift"]


@pytest.mark.parametrize("choice", ["none", "auto", None])
def test_the_tool_choice_that_cline_sends_is_taken(client: httpx.Client, choice: str | None) -> None:
    assert answer_of(chat(client, tool_choice=choice))["message"]["content"]


def test_a_tool_choice_that_cannot_be_met_is_refused(client: httpx.Client) -> None:
    assert error_of(chat(client, tool_choice="required")).startswith("tool_choice asks for a tool call")
    assert error_of(chat(client, tool_choice="any")).startswith(
        'tool_choice must be "none", "auto", "required"'
    )
