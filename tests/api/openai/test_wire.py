"""No body may break anything, and vectors keep their numbers on the wire."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.bodies import encoded, parse
from server.api.jsontext import parsed_json
from server.api.openai.chat_wire import ChatBody
from server.api.openai.completions_wire import CompletionBody
from server.api.openai.embeddings_wire import EmbeddingsBody, embeddings_object
from server.api.openai.responses_items import read_input
from server.api.openai.responses_wire import ResponsesBody
from server.domain.chat import Message, ToolCall
from server.domain.errors import InvalidRequest
from tests.api.test_fuzz import OPTIONS, TEXT, VALUES, some

PARTS = st.lists(some(type=st.sampled_from(["text", "input_text", "image_url"]), text=TEXT), max_size=2)
FUNCTIONS = some(name=TEXT, arguments=TEXT, parameters=st.just({"type": "object"}))
CALLS = st.lists(some(id=TEXT, function=FUNCTIONS), max_size=2)
ROLES = st.sampled_from(["user", "assistant", "developer", "tool", "function"])
MESSAGES = st.lists(some(role=ROLES, content=TEXT | PARTS, tool_calls=CALLS, name=TEXT), max_size=3)
ITEMS = st.lists(
    some(
        type=st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "magic"]),
        role=ROLES,
        content=TEXT | PARTS,
        call_id=TEXT,
        name=TEXT,
        arguments=TEXT,
        output=TEXT | PARTS,
        summary=st.just([{"text": "hm"}]),
    ),
    max_size=3,
)
TOOLS = st.lists(
    some(type=st.sampled_from(["function", "namespace", "web_search"]), name=TEXT, function=FUNCTIONS),
    max_size=2,
)
BODIES = some(
    model=st.just("m"),
    messages=MESSAGES,
    input=TEXT | ITEMS,
    prompt=TEXT,
    tools=TOOLS,
    tool_choice=st.sampled_from(["auto", "required"]) | FUNCTIONS,
    options=OPTIONS,
    logit_bias=st.dictionaries(st.sampled_from(["1", "-1", "x", "٣"]), VALUES, max_size=2),
    response_format=some(type=st.sampled_from(["text", "json_object", "json_schema"]), json_schema=VALUES),
    reasoning_effort=st.sampled_from(["none", "low", "xhigh"]),
    truncation=st.sampled_from(["auto", "disabled"]),
    include=st.lists(VALUES, max_size=2),
    verbosity=VALUES,
    store=VALUES,
)


@settings(max_examples=300, deadline=None)
@given(VALUES | BODIES, st.sampled_from([ChatBody, CompletionBody, ResponsesBody, EmbeddingsBody]))
def test_a_value_becomes_a_request_or_an_error(value: Any, kind: Any) -> None:
    try:
        request = parse(kind, parsed_json(json.dumps(value).encode())).to_domain()
    except InvalidRequest as error:
        encoded({"error": str(error)}).decode()
    else:
        assert request.model == "m" or request.model
        encoded({"ignored": list(request.options.ignored)}).decode()


def test_a_turn_of_items_is_one_message() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "look", "arguments": '{"x": 1}'}
    items = [
        {"role": "user", "content": "Look."},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "?"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
        call,
        {**call, "call_id": "b", "namespace": "eyes"},
        {"type": "function_call_output", "call_id": "b", "output": "5"},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "So?"}]},
        call,
    ]
    assert read_input(items, "Be brief.") == (
        Message("system", "Be brief."),
        Message("user", "Look."),
        Message(
            "assistant",
            "Yes.",
            thinking="Hm.",
            tool_calls=(ToolCall("look", {"x": 1}, "a"), ToolCall("eyes.look", {"x": 1}, "b")),
        ),
        Message("tool", "5", tool_name="eyes.look", tool_call_id="b"),
        Message("assistant", thinking="So?", tool_calls=(ToolCall("look", {"x": 1}, "a"),)),
    )


def test_results_and_developers_are_what_templates_know() -> None:
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
        },
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "look", "arguments": "{}"}}]},
        {"role": "tool", "content": "5", "tool_call_id": "a"},
        {"role": "tool", "content": "6", "tool_call_id": "b", "name": "wait"},
    ]
    assert parse(ChatBody, {"model": "m", "messages": messages}).to_domain().messages == (
        Message("system", "Be\nbrief."),
        Message("assistant", tool_calls=(ToolCall("look", {}, "a"),)),
        Message("tool", "5", tool_name="look", tool_call_id="a"),
        Message("tool", "6", tool_name="wait", tool_call_id="b"),
    )


@pytest.mark.parametrize(
    ("fields", "truncate"),
    [({}, True), ({"tools": [{"function": {"name": "f"}}]}, False), ({"truncate": False}, False)],
)
def test_an_agent_shortens_its_history_itself(fields: dict[str, Any], truncate: bool) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    assert parse(ChatBody, body).to_domain().options.truncate is truncate


def test_openais_defaults_hold_unless_something_is_said() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    free = parse(ChatBody, body).to_domain().options
    assert (free.sampling.temperature, free.sampling.top_p, free.named) == (1.0, 1.0, frozenset())
    told = parse(ChatBody, {**body, "temperature": 0.5, "seed": 3}).to_domain().options
    assert (told.sampling.temperature, told.sampling.seed) == (0.5, 3)
    assert told.named == {"temperature", "seed"}


VECTORS: tuple[Any, ...] = (np.array([0.1, -2.5e-8, 3.0], np.float32), [1.0, 0.0, -1.0])


def embeddings_of(form: str) -> dict[str, Any]:
    body = parse(EmbeddingsBody, {"model": "m", "input": ["a", "b"], "encoding_format": form})
    value: dict[str, Any] = json.loads(encoded(embeddings_object(body, VECTORS, 7)))
    return value


def test_vectors_are_numbers_in_their_order() -> None:
    value = embeddings_of("float")
    assert (value["object"], value["model"]) == ("list", "m")
    assert value["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [(item["object"], item["index"]) for item in value["data"]] == [("embedding", 0), ("embedding", 1)]
    for item, vector in zip(value["data"], VECTORS, strict=True):
        assert np.array_equal(np.array(item["embedding"], np.float32), vector)


def test_vectors_in_base64_are_little_endian() -> None:
    first, second = (base64.b64decode(item["embedding"]) for item in embeddings_of("base64")["data"])
    assert np.array_equal(np.frombuffer(first, "<f4"), VECTORS[0])
    assert second == b"\x00\x00\x80?\x00\x00\x00\x00\x00\x00\x80\xbf"


@pytest.mark.parametrize("given_texts", ["", "a", ["a", ""]])
def test_texts_may_be_empty_or_alone(given_texts: Any) -> None:
    texts = parse(EmbeddingsBody, {"model": "m", "input": given_texts}).to_domain().texts
    assert texts == ((given_texts,) if isinstance(given_texts, str) else tuple(given_texts))
