"""``/v1/responses``: items in, items out, and the events on the way."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, HELPER
from tests.api.openai.asking import (
    ANSWER_SCHEMA,
    FLAT_TOOL,
    answer_of,
    chat,
    error_of,
    events_of,
    respond,
)

DEVELOPER = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}
USER = {"role": "user", "content": "Look here."}
CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"place":"here"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "A cat."}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
NAMESPACE = {"type": "namespace", "name": "eyes", "tools": [FLAT_TOOL]}


def text_of(response: dict[str, Any]) -> str:
    text: str = response["output"][-1]["content"][0]["text"]
    return text


def test_a_response_has_the_form_that_clients_parse(client: httpx.Client) -> None:
    response = answer_of(respond(client, max_output_tokens=3))
    assert re.fullmatch(r"resp_[0-9a-f]{32}", response["id"])
    assert (response["object"], response["model"], response["error"]) == ("response", GENERATOR, None)
    assert (response["status"], response["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    [message] = response["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "incomplete")
    [part] = message["content"]
    assert part.pop("text")
    assert part == {"type": "output_text", "annotations": [], "logprobs": []}
    assert response["llm_optimizer"]["tokens_received"] == 33


def test_usage_has_the_names_of_this_route(client: httpx.Client) -> None:
    answer_of(respond(client, max_output_tokens=2))
    assert answer_of(respond(client, max_output_tokens=2))["usage"] == {
        "input_tokens": 33,
        "input_tokens_details": {"cached_tokens": 33},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 35,
    }


def test_a_response_repeats_what_was_asked(client: httpx.Client) -> None:
    told = {"metadata": {"a": "b"}, "user": "me", "instructions": "Be brief.", "truncation": "auto"}
    response = answer_of(respond(client, top_p=0.5, **told))
    assert {name: response[name] for name in told} == told
    assert (response["temperature"], response["top_p"]) == (0, 0.5)
    assert (response["tools"], response["tool_choice"]) == ([], "auto")
    assert response["text"] == {"format": {"type": "text"}}
    assert (response["store"], response["background"], response["previous_response_id"]) == (
        False,
        False,
        None,
    )
    assert answer_of(respond(client, temperature=None))["temperature"] == 1.0


def test_a_stream_builds_the_response_up(client: httpx.Client) -> None:
    answer_of(respond(client, max_output_tokens=4))
    whole = answer_of(respond(client, max_output_tokens=4))
    events = events_of(respond(client, max_output_tokens=4, stream=True))
    kinds = [event["type"] for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert deltas >= 1
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    last = events[-1]["response"]
    assert text == text_of(whole) == text_of(last)
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    assert {event["response"]["id"] for event in (events[0], events[-1])} == {last["id"]}
    assert {event["item_id"] for event in events if "item_id" in event} == {last["output"][0]["id"]}


def test_an_answer_that_ends_by_itself_is_completed(client: httpx.Client) -> None:
    form = {"type": "json_schema", "name": "answer", "schema": ANSWER_SCHEMA, "strict": True}
    response = answer_of(respond(client, max_output_tokens=30, text={"format": form}))
    assert (response["status"], response["incomplete_details"]) == ("completed", None)
    assert set(json.loads(text_of(response))) == {"warm"}
    assert response["output"][0]["status"] == "completed"
    events = events_of(respond(client, max_output_tokens=30, text={"format": form}, stream=True))
    assert events[-1]["type"] == "response.completed"


def test_instructions_are_what_the_system_says(client: httpx.Client) -> None:
    asked = answer_of(respond(client, instructions="Be brief."))["usage"]["input_tokens"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Define gravity."}]
    assert answer_of(chat(client, messages=messages))["usage"]["prompt_tokens"] == asked


GOOD: dict[str, list[dict[str, Any]]] = {
    "developer": [DEVELOPER, USER],
    "no type": [USER],
    "assistant": [
        USER,
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
        USER,
    ],
    "call": [USER, CALL, OUTPUT],
    "thought and calls": [USER, THOUGHT, CALL, {**CALL, "call_id": "call_2"}, OUTPUT],
    "thought alone": [USER, THOUGHT],
    "output in parts": [USER, CALL, {**OUTPUT, "output": [{"type": "input_text", "text": "A cat."}]}],
    "search": [USER, {"type": "web_search_call", "id": "ws_1", "status": "completed"}, USER],
}


@pytest.mark.parametrize("items", GOOD.values(), ids=GOOD.keys())
def test_items_of_every_known_type_are_read(client: httpx.Client, items: list[dict[str, Any]]) -> None:
    answer_of(respond(client, input=items))


def said(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part]}]


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (None, "input must be a string or an array of items, but it is null"),
    "no items": ([], "input is empty"),
    "no text": ("", "input is empty"),
    "number": (5, "input must be a string or an array of items, but it is 5"),
    "no object": ([USER, 5], "input[1] must be an object, but it is 5"),
    "unknown": ([{"type": "magic"}], 'input[0]: unknown input item type: "magic"'),
    "no type": ([{}], "input[0]: unknown input item type: null"),
    "reference": ([{"type": "item_reference", "id": "x"}], "nothing is stored here"),
    "file": (said({"type": "input_file", "file_data": "x"}), "input[0]: invalid message format: content.0"),
    "stored image": (
        said({"type": "input_image", "file_id": "x"}),
        "content.0.image_url must be a data: URL",
    ),
    "image": (
        said({"type": "input_image", "image_url": "data:;base64,aGk="}),
        "does not support image input",
    ),
    "call without a name": ([{"type": "function_call", "call_id": "a"}], "input[0]: name is missing"),
    "arguments": ([{**CALL, "arguments": "{"}], "input[0]: invalid tool call arguments"),
    "output": ([CALL, {**OUTPUT, "output": 5}], "input[1]: invalid message content type: output must be"),
}


@pytest.mark.parametrize(("items", "words"), BAD.values(), ids=BAD.keys())
def test_items_of_a_wrong_shape_are_errors(client: httpx.Client, items: Any, words: str) -> None:
    assert words in error_of(respond(client, input=items))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "previous": (
        {"previous_response_id": "resp_1"},
        "previous_response_id is not supported: nothing is stored",
    ),
    "conversation": ({"conversation": {"id": "x"}}, "conversation is not supported"),
    "prompt": ({"prompt": {"id": "x"}}, "prompt is not supported"),
    "background": ({"background": True}, "background is not supported"),
    "truncation": ({"truncation": "some"}, 'truncation must be "auto" or "disabled", but it is "some"'),
    "format": ({"text": {"format": {"type": "x"}}}, "text.format.type must be"),
    "schema": ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema must be a JSON schema"),
    "effort": ({"reasoning": {"effort": "huge"}}, 'invalid reasoning value: "huge"'),
    "limit": ({"max_output_tokens": "x"}, "max_output_tokens must be an integer"),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools.0.name is missing"),
    "no tool": ({"tools": [5]}, "tools.0 must be an object"),
    "inner tool": ({"tools": [{"type": "namespace", "name": "n", "tools": [{}]}]}, "tools.0.tools.0.name is"),
    "no model": ({"model": None}, "model is required"),
}


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_done_is_refused(client: httpx.Client, fields: dict[str, Any], words: str) -> None:
    assert words in error_of(respond(client, stream=True, **fields))


def test_errors_before_the_stream_have_their_status_and_code(client: httpx.Client) -> None:
    error_of(respond(client, model="nothing", stream=True), 404, "model_not_found")
    long = [{"role": "system", "content": "word " * 9000}, USER]
    error_of(respond(client, input=long, stream=True), 400, "context_length_exceeded")


def test_an_effort_is_relaxed_for_a_model_that_cannot_think(client: httpx.Client) -> None:
    response = answer_of(respond(client, reasoning={"effort": "high", "summary": "auto"}))
    assert response["llm_optimizer"]["ignored"] == ["reasoning.effort"]
    assert response["reasoning"] == {"effort": "high", "summary": "auto"}


def test_thoughts_are_an_item_of_their_own(skilled: httpx.Client) -> None:
    fields: dict[str, Any] = {"model": HELPER, "reasoning": {"effort": "low"}, "max_output_tokens": 3}
    response = answer_of(respond(skilled, **fields, include=["reasoning.encrypted_content"]))
    [item] = response["output"]
    assert (item["type"], item["status"]) == ("reasoning", "incomplete")
    assert item["summary"] == [{"type": "summary_text", "text": item["encrypted_content"]}]
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
    events = events_of(respond(skilled, **fields, stream=True))
    kinds = [event["type"] for event in events if "reasoning" in event["type"]]
    assert kinds[0] == "response.reasoning_summary_part.added"
    assert set(kinds[1:-2]) == {"response.reasoning_summary_text.delta"}
    assert kinds[-2:] == ["response.reasoning_summary_text.done", "response.reasoning_summary_part.done"]
    assert "encrypted_content" not in events[-1]["response"]["output"][0]


def test_a_required_call_is_an_item(skilled: httpx.Client) -> None:
    fields: dict[str, Any] = {"tools": [FLAT_TOOL], "tool_choice": "required", "max_output_tokens": 40}
    response = answer_of(respond(skilled, **fields))
    [call] = response["output"]
    assert (call["type"], call["status"], call["name"]) == ("function_call", "completed", "look")
    assert call["call_id"].startswith("call_")
    assert json.loads(call["arguments"])["place"]
    assert (response["status"], response["tool_choice"]) == ("completed", "required")
    events = events_of(respond(skilled, **fields, stream=True))
    assert [event["type"] for event in events if "arguments" in event["type"]][-1].endswith("arguments.done")
    added = next(event["item"] for event in events if event["type"] == "response.output_item.added")
    assert (added["arguments"], added["status"]) == ("", "in_progress")
    parts = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
    assert "".join(parts) == events[-1]["response"]["output"][0]["arguments"]


def test_a_named_tool_of_a_namespace_keeps_both_names(skilled: httpx.Client) -> None:
    named = {"type": "function", "name": "eyes.look"}
    response = answer_of(respond(skilled, tools=[NAMESPACE], tool_choice=named, max_output_tokens=40))
    [call] = response["output"]
    assert (call["name"], call["namespace"]) == ("look", "eyes")


def test_tools_that_only_openai_runs_are_left_out_and_named(client: httpx.Client) -> None:
    response = answer_of(
        respond(client, tools=[{"type": "web_search"}], text={"verbosity": "low"}, store=True)
    )
    assert set(response["llm_optimizer"]["ignored"]) == {"tools.web_search", "text.verbosity", "store"}


def test_log_probabilities_come_if_they_are_included(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    response = answer_of(respond(client, max_output_tokens=2, **fields))
    tokens = response["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in tokens) == text_of(response)
    assert [len(token["top_logprobs"]) for token in tokens] == [1, 1]


def test_truncation_drops_the_oldest_only_if_it_is_wanted(client: httpx.Client) -> None:
    items = [
        {"role": "user", "content": "word " * 5000},
        {"role": "assistant", "content": "word " * 4000},
        USER,
    ]
    error_of(respond(client, model=HELPER, input=items), 400, "context_length_exceeded")
    response = answer_of(respond(client, model=HELPER, input=items, truncation="auto"))
    assert response["llm_optimizer"]["dropped_messages"] == 2
