"""Bodies to requests, without HTTP."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.anthropic.wire import CountBody, MessagesBody
from server.api.bodies import encoded, parse
from server.api.jsontext import parsed_json
from server.domain.chat import ChatRequest, Message, ToolCall, ToolChoice, ToolMode
from server.domain.errors import InvalidRequest
from tests.api.anthropic.asking import WEATHER, message_body

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
CACHED = {"cache_control": {"type": "ephemeral"}}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def use(number: int, name: str = "look", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": arguments}


def result(number: int, content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": content, **more}


def request(**fields: Any) -> ChatRequest:
    return parse(MessagesBody, message_body(**fields)).to_domain("/v1/messages")


def conversation(*contents: Any, **fields: Any) -> tuple[Message, ...]:
    """Messages of the user and the assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return request(messages=messages, **fields).messages


def refusal(**fields: Any) -> str:
    with pytest.raises(InvalidRequest) as raised:
        request(**fields)
    return str(raised.value)


def test_a_plain_request() -> None:
    wanted = request(max_tokens=7, temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["a", "b"])
    assert wanted.messages == (Message("user", "Define gravity."),)
    assert wanted.options.max_tokens == 7
    assert wanted.options.stop == ("a", "b")
    assert wanted.options.named == {"max_tokens", "temperature", "top_p", "top_k"}
    sampling = wanted.options.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 3)
    assert wanted.options.ignored == ()
    assert (wanted.stream, wanted.route, wanted.tool_choice) == (False, "/v1/messages", ToolChoice())


def test_defaults_are_those_of_the_dialect() -> None:
    options = request(temperature=None).options
    assert (options.sampling.temperature, options.sampling.top_p) == (1.0, 1.0)
    assert options.named == {"max_tokens"}
    assert (options.stop, options.format, options.keep_alive_s, options.truncate) == (None,) * 4
    assert options.think is False


def test_ollamas_options_are_known_and_come_first() -> None:
    options = request(
        options={"num_ctx": 4096, "seed": 5, "temperature": 0.1, "top_p": None}, top_p=0.3, keep_alive="5m"
    ).options
    assert (options.context_tokens, options.keep_alive_s) == (4096, 300)
    assert (options.sampling.seed, options.sampling.temperature, options.sampling.top_p) == (5, 0.1, 0.3)


@pytest.mark.parametrize("system", ["Be brief.", [text("Be brief.", **CACHED)], [text("Be"), text("brief.")]])
def test_system_is_a_string_or_blocks(system: Any) -> None:
    first, second = request(system=system).messages
    assert first.role == "system"
    assert first.content.split() == ["Be", "brief."]
    assert second.role == "user"


@pytest.mark.parametrize("system", ["", [], None, [text("")]])
def test_an_empty_system_prompt_is_none(system: Any) -> None:
    assert [message.role for message in request(system=system).messages] == ["user"]


BILLING = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=fa690;"


@pytest.mark.parametrize("system", [[text(BILLING), text("You code.")], f"{BILLING}\nYou code."])
def test_figures_of_claude_code_that_change_each_time_stay_out_of_the_prompt(system: Any) -> None:
    wanted = request(system=system)
    assert wanted.messages[0] == Message("system", "You code.")
    assert wanted.options.ignored == ("x-anthropic-billing-header",)
    assert request(system=f"Say {BILLING}").messages[0].content == f"Say {BILLING}"


def test_system_messages_within_the_list_stay_where_they_are() -> None:
    messages = [{"role": role, "content": role} for role in ("system", "user", "system")]
    assert [(said.role, said.content) for said in request(messages=messages).messages] == [
        *(("system", "system"), ("user", "user"), ("system", "system"))
    ]


def test_blocks_of_one_message_are_one_message() -> None:
    user, assistant, _ = conversation(
        [text("What"), text("is it?", **CACHED), IMAGE],
        [
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            text("Let me look."),
            use(1, a=1),
            use(2, "hear"),
        ],
        "Go on.",
    )
    assert user == Message("user", "What\n\nis it?", images=("aGk=",))
    assert assistant == Message(
        "assistant",
        "Let me look.",
        thinking="hm",
        tool_calls=(ToolCall("look", {"a": 1}, "toolu_1"), ToolCall("hear", {}, "toolu_2")),
    )


def test_results_are_tool_messages_before_the_words_beside_them() -> None:
    messages = conversation(
        "Look.",
        [use(1), use(2, "hear")],
        [text("By the way:"), result(2, "a bang"), result(1, [text("a"), IMAGE, text("cat")]), text("Well?")],
    )
    assert messages[2:] == (
        Message("tool", "a bang", tool_name="hear", tool_call_id="toolu_2"),
        Message("tool", "a\n\ncat", images=("aGk=",), tool_name="look", tool_call_id="toolu_1"),
        Message("user", "By the way:\n\nWell?"),
    )


@pytest.mark.parametrize(
    ("content", "is_error", "words"),
    [
        (None, False, ""),
        ("no such file", True, "Error: no such file"),
        ("Error: no such file", True, "Error: no such file"),
        ([text("no"), text("file")], True, "Error: no\n\nfile"),
        (
            [{"type": "tool_reference", "tool_name": "x"}],
            False,
            '{"type": "tool_reference", "tool_name": "x"}',
        ),
    ],
)
def test_what_a_result_says(content: Any, is_error: bool, words: str) -> None:
    told = conversation("Look.", [use(1)], [result(1, content, is_error=is_error)])[-1]
    assert told == Message("tool", words, tool_name="look", tool_call_id="toolu_1")


def test_a_result_of_an_unknown_call_has_no_name() -> None:
    told = conversation([result(9, "x")])[0]
    assert told == Message("tool", "x", tool_name=None, tool_call_id="toolu_9")


def test_a_conversation_with_anthropics_own_tools_goes_on() -> None:
    found = [{"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "x" * 99}]
    messages = conversation(
        "Search.",
        [
            text("Searching."),
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": found},
            text("Found."),
        ],
        "Thanks.",
    )
    assert messages[1:4] == (
        Message(
            "assistant", "Searching.", tool_calls=(ToolCall("web_search", {"query": "q"}, "srvtoolu_1"),)
        ),
        Message(
            "tool",
            '[{"type": "web_search_result", "url": "u", "title": "t"}]',
            tool_name="web_search",
            tool_call_id="srvtoolu_1",
        ),
        Message("assistant", "Found."),
    )


def test_tools() -> None:
    wanted = request(tools=[{**WEATHER, **CACHED}, {"name": "b", "type": "custom", "input_schema": {}}])
    assert wanted.tools == (
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather of a city",
                "parameters": WEATHER["input_schema"],
            },
        },
        {"type": "function", "function": {"name": "b", "description": "", "parameters": {}}},
    )


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice(ToolMode.REQUIRED)),
        ({"type": "tool", "name": "x"}, ToolChoice(ToolMode.REQUIRED, "x")),
        ({"type": "none"}, ToolChoice(ToolMode.NONE)),
    ],
)
def test_tool_choice(choice: Any, meant: ToolChoice) -> None:
    wanted = request(tool_choice=choice, tools=[WEATHER])
    assert wanted.tool_choice == meant
    assert wanted.options.ignored == ()


@pytest.mark.parametrize(
    ("thinking", "effort", "think"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, None, True),
        ({"type": "adaptive"}, None, True),
        ({"type": "between_tools"}, None, True),
        ({"type": "disabled"}, None, False),
        (None, None, False),
        ({"type": "adaptive"}, "low", "low"),
        ({"type": "adaptive"}, "medium", "medium"),
        ({"type": "enabled"}, "high", "high"),
        ({"type": "adaptive"}, "xhigh", "max"),
        ({"type": "adaptive"}, "max", "max"),
        (None, "high", False),
    ],
)
def test_thinking(thinking: Any, effort: str | None, think: bool | str) -> None:
    assert request(thinking=thinking, output_config={"effort": effort}).options.think == think


def test_a_schema_for_the_answer() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    assert request(output_config={"format": form}).options.format == {"type": "object"}
    assert request(output_format=form).options.format == {"type": "object"}


WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "context_management": {"context_management": {"edits": []}},
    "service_tier": {"service_tier": "auto"},
    "mirostat": {"options": {"mirostat": 1}},
    "tools.web_search": {"tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}]},
    "tools.strict": {"tools": [{**WEATHER, "strict": True}]},
    "tool_choice.disable_parallel_tool_use": {
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}
    },
    "thinking.budget_tokens": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    "output_config.effort": {"output_config": {"effort": "low"}},
    "output_config.format": {
        "tool_choice": {"type": "any"},
        "output_config": {"format": {"type": "json_schema", "schema": {}}},
    },
    "prefill": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I"}]},
}


@pytest.mark.parametrize(("name", "fields"), WITHOUT_EFFECT.items(), ids=WITHOUT_EFFECT.keys())
def test_what_has_no_effect_is_named(name: str, fields: dict[str, Any]) -> None:
    assert request(**fields).options.ignored == (name,)


@pytest.mark.parametrize("fields", [{"metadata": {"user_id": "x"}}, {"unknown": None}, CACHED])
def test_what_asks_for_nothing_is_not_named(fields: dict[str, Any]) -> None:
    assert request(**fields).options.ignored == ()


def said(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
URL = {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "model is required"),
    "empty model": ({"model": ""}, "model is required"),
    "no limit": ({"max_tokens": None}, "max_tokens is required and must be positive"),
    "limit 0": ({"max_tokens": 0}, "max_tokens is required and must be positive"),
    "limit -1": ({"max_tokens": -1}, "max_tokens is required and must be positive"),
    "half a token": ({"max_tokens": 1.5}, "max_tokens must be an integer, but it is 1.5"),
    "no messages": ({"messages": None}, "messages is required"),
    "empty messages": ({"messages": []}, "messages is required"),
    "temperature": ({"temperature": "hot"}, 'temperature must be a number, but it is "hot"'),
    "top_k": ({"top_k": "x"}, 'top_k must be an integer, but it is "x"'),
    "stop": ({"stop_sequences": "x"}, 'stop_sequences must be an array, but it is "x"'),
    "stops": ({"stop_sequences": [5]}, "stop_sequences.0 must be a string, but it is 5"),
    "stream": ({"stream": "yes"}, 'stream must be true or false, but it is "yes"'),
    "role": (
        {"messages": [{"role": "tool", "content": "x"}]},
        'messages.0.role holds "tool", which is none of user, assistant, system',
    ),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content is missing"),
    "content": (
        {"messages": [{"role": "user", "content": 5}]},
        "messages.0.content must be an array, but it is 5",
    ),
    "no block": (said(5), "messages.0.content.0 holds 5, which is no block"),
    "unknown block": (
        said(text("x"), {"type": "video"}),
        'messages.0.content.1 holds a block of the type "video"; known are text, image, tool_use, '
        "tool_result and thinking",
    ),
    "untyped block": (said({}), "messages.0.content.0 holds a block of the type null"),
    "no text": (said({"type": "text"}), "messages.0.content.0.text.text is missing"),
    "document": (said(DOCUMENT), "messages.0.content.0 holds a document, which no model here reads"),
    "document inside": (
        said(result(1, [DOCUMENT])),
        "messages.0.content.0.tool_result.content.0 holds a document",
    ),
    "image by URL": (
        said(URL),
        'messages.0.content.0.image.source.type holds "url": send images as base64',
    ),
    "image inside by URL": (said(result(1, [URL])), "content.0.image.source.type holds"),
    "bad image": (
        said({"type": "image", "source": {"type": "base64", "data": "!"}}),
        "messages.0.content.0.image.source.data holds illegal base64 data",
    ),
    "call": (said({**use(1), "input": "x"}), "messages.0.content.0.tool_use.input must be an object"),
    "result": (
        said({"type": "tool_result", "content": "x"}),
        "messages.0.content.0.tool_result.tool_use_id is missing",
    ),
    "system": ({"system": 5}, "system must be an array, but it is 5"),
    "system image": ({"system": [IMAGE]}, 'system.0 holds a block of the type "image"'),
    "tools": ({"tools": {}}, "tools must be an array"),
    "no tool": ({"tools": [5]}, "tools.0 must be an object, but it is 5"),
    "no schema": ({"tools": [{"name": "x"}]}, "tools.0.custom.input_schema is missing"),
    "no name": ({"tools": [{"input_schema": {}}]}, "tools.0.custom.name is missing"),
    "choice": (
        {"tool_choice": {"type": "required"}},
        'tool_choice.type must be one of auto, any, tool, none, but it is "required"',
    ),
    "choice without name": ({"tool_choice": {"type": "tool"}}, "tool_choice.name is missing"),
    "thinking": (
        {"thinking": {"type": "on"}},
        'thinking.type must be one of enabled, adaptive, between_tools, disabled, but it is "on"',
    ),
    "effort": (
        {"output_config": {"effort": "huge"}},
        'output_config.effort must be one of low, medium, high, xhigh, max, but it is "huge"',
    ),
    "format": (
        {"output_config": {"format": {"type": "xml", "schema": {}}}},
        'output_config.format.type must be json_schema, but it is "xml"',
    ),
    "options": ({"options": {"num_ctx": "many"}}, 'option "num_ctx" must be of type integer'),
    "keep_alive": ({"keep_alive": "abc"}, 'time: invalid duration "abc"'),
}


@pytest.mark.parametrize(("fields", "words"), BAD.values(), ids=BAD.keys())
def test_a_fault_is_told_with_its_place(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


def test_counting_needs_no_limit() -> None:
    body = message_body()
    del body["max_tokens"]
    wanted = parse(CountBody, body).to_domain("/v1/messages/count_tokens")
    assert wanted.messages == (Message("user", "Define gravity."),)
    assert wanted.options.ignored == ()


WORDS = st.text(st.characters(), max_size=6)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**30), 1e300, -0.0])
    | WORDS
    | st.sampled_from(["auto", "tool", "enabled", "high", "user", "text", "\ud800", "aGk=", "json_schema"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional={name: field | VALUES for name, field in fields.items()})


KINDS = st.sampled_from(
    ["text", "image", "thinking", "tool_use", "tool_result", "document", "web_search_tool_result"]
)
SOURCES = some(type=st.just("base64"), data=st.just("aGk="))
BLOCKS = some(
    type=KINDS,
    text=WORDS,
    source=SOURCES,
    id=WORDS,
    name=WORDS,
    input=st.dictionaries(WORDS, VALUES, max_size=2),
    tool_use_id=WORDS,
    content=st.lists(some(type=KINDS, text=WORDS, source=SOURCES), max_size=2),
    is_error=st.booleans(),
)
BODIES = some(
    model=st.just("m"),
    max_tokens=st.integers(1, 9),
    messages=st.lists(some(role=st.just("user"), content=st.lists(BLOCKS, max_size=2) | WORDS), max_size=2),
    system=st.lists(some(type=st.just("text"), text=WORDS), max_size=2),
    tools=st.lists(some(name=WORDS, type=WORDS, input_schema=st.just({})), max_size=2),
    tool_choice=some(type=LEAVES, name=WORDS),
    thinking=some(type=LEAVES, budget_tokens=LEAVES),
    output_config=some(effort=LEAVES, format=some(type=LEAVES, schema=st.just({}))),
    temperature=LEAVES,
    top_k=LEAVES,
    top_p=LEAVES,
    stop_sequences=st.lists(WORDS, max_size=2),
    options=st.just({}),
)


@settings(max_examples=300, deadline=None)
@given(BODIES | VALUES)
def test_a_body_becomes_a_request_or_an_error(value: Any) -> None:
    try:
        body = parse(MessagesBody, parsed_json(json.dumps(value).encode()))
        wanted = body.to_domain("/v1/messages")
    except InvalidRequest as error:
        assert encoded({"message": str(error)}).decode()
    else:
        assert wanted.messages
        assert encoded({"ignored": list(wanted.options.ignored)}).decode()
