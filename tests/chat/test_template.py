import json
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.chat.template import CHATML, ChatTemplate, merged_neighbours
from server.domain.chat import Message, ToolCall
from server.domain.errors import InvalidRequest
from server.engine.gguf.reader import read_header

FOLDER = Path(__file__).parent / "templates"
QWEN25 = (FOLDER / "Qwen-Qwen2.5-7B-Instruct.jinja").read_text()
QWEN3 = (FOLDER / "Qwen-Qwen3-0.6B.jinja").read_text()

LOOK_UP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks <up> & \"finds\" 'é'",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
    },
}
CALL = ToolCall("look_up", {"what": "a < b & é", "deep": {"list": [1, None, True]}}, id="call_1")

PLAIN = [Message("user", "Hello <b> & 'you'")]
TURNS = [
    Message("system", "Be brief."),
    Message("user", "a"),
    Message("assistant", "b\n"),
    Message("user", "é😀"),
]
TOOL_TURNS = [
    Message("system", "Be brief."),
    Message("user", "What is it?"),
    Message("assistant", "I look.", tool_calls=(CALL, ToolCall("look_up", {}))),
    Message("tool", "it is <it>", tool_name="look_up", tool_call_id="call_1"),
    Message("tool", "nothing", tool_name="look_up"),
    Message("assistant", "", thinking="Hm.", tool_calls=(CALL,)),
    Message("tool", "at last"),
]
THOUGHT = [
    Message("user", "a"),
    Message("assistant", "<think>\nold\n</think>\n\nb"),
    Message("user", "c"),
    Message("assistant", "d", thinking="new"),
    Message("user", "e"),
]
CHATS = {"plain": PLAIN, "turns": TURNS, "tools": TOOL_TURNS, "thought": THOUGHT}


def reference(source: str, messages: list[Message], **variables: Any) -> str:
    """What transformers' ``apply_chat_template`` does, with the messages as OpenAI's clients write them."""

    def raise_exception(text: str) -> NoReturn:
        raise jinja2.exceptions.TemplateError(text)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    plain: list[dict[str, Any]] = []
    for message in messages:
        plain.append({"role": message.role, "content": message.content})
        if message.thinking:
            plain[-1]["reasoning_content"] = message.thinking
        if message.tool_calls:
            plain[-1]["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.tool_calls
            ]
    variables.setdefault("tools", None)
    return environment.from_string(source).render(messages=plain, add_generation_prompt=True, **variables)


@pytest.fixture(scope="module")
def smol(embedded_model: Path) -> str:
    source = read_header(embedded_model).chat_template
    assert source is not None
    return source


@pytest.fixture(params=["smol", "qwen2.5", "qwen3", "chatml"])
def source(request: pytest.FixtureRequest, smol: str) -> str:
    return {"smol": smol, "qwen2.5": QWEN25, "qwen3": QWEN3, "chatml": CHATML}[request.param]


@pytest.mark.parametrize("chat", CHATS)
def test_renders_as_transformers_does(source: str, chat: str) -> None:
    assert ChatTemplate(source).render(CHATS[chat]) == reference(source, CHATS[chat])


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", [QWEN25, QWEN3], ids=["qwen2.5", "qwen3"])
def test_tools_are_rendered_as_transformers_does(template: str, chat: str) -> None:
    prompt = ChatTemplate(template).render(CHATS[chat], (LOOK_UP,))
    assert prompt == reference(template, CHATS[chat], tools=[LOOK_UP])
    assert "Looks <up> & \\\"finds\\\" 'é'" in prompt


texts = st.text(max_size=20)
messages = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant", "tool"]),
        content=texts,
        thinking=texts,
        tool_calls=st.lists(
            st.builds(ToolCall, name=texts, arguments=st.dictionaries(texts, texts, max_size=2)), max_size=2
        ).map(tuple),
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def templates() -> list[ChatTemplate]:
    """Made once: each has a process of its own."""
    return [ChatTemplate(source) for source in (QWEN25, QWEN3, CHATML)]


@settings(max_examples=50)
@given(messages, st.sampled_from([0, 1, 2]), st.booleans())
def test_any_chat_is_rendered_as_transformers_does(
    templates: list[ChatTemplate], chat: list[Message], chosen: int, tools: bool
) -> None:
    template = templates[chosen]
    ours = template.render(chat, (LOOK_UP,) if tools else ())
    assert ours == reference(template.source, chat, tools=[LOOK_UP] if tools else None)


def test_smol_brings_its_own_system_message(smol: str) -> None:
    prompt = ChatTemplate(smol).render(PLAIN)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith("<|im_start|>user\nHello <b> & 'you'<|im_end|>\n<|im_start|>assistant\n")


def test_tool_results_of_one_turn_go_together() -> None:
    prompt = ChatTemplate(QWEN25).render(TOOL_TURNS)
    assert (
        "<|im_start|>user\n<tool_response>\nit is <it>\n</tool_response>\n"
        "<tool_response>\nnothing\n</tool_response><|im_end|>\n"
    ) in prompt
    assert (
        '{"name": "look_up", "arguments": {"what": "a < b & é", "deep": {"list": [1, null, true]}}}' in prompt
    )


@pytest.mark.parametrize(
    ("think", "ending"),
    [
        (None, "<|im_start|>assistant\n"),
        (True, "<|im_start|>assistant\n"),
        ("high", "<|im_start|>assistant\n"),
        (False, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ],
)
def test_the_thinking_switch(think: bool | str | None, ending: str) -> None:
    assert ChatTemplate(QWEN3).render(PLAIN, think=think).endswith("<|im_end|>\n" + ending)


@pytest.mark.parametrize(
    ("think", "seen"), [(None, "True -"), (True, "True -"), (False, "False -"), ("low", "True low")]
)
def test_the_switches_that_a_template_sees(think: bool | str | None, seen: str) -> None:
    template = ChatTemplate("{{ enable_thinking | default('-') }} {{ reasoning_effort | default('-') }}")
    assert template.render(PLAIN, think=think) == seen


def test_old_thinking_is_left_out() -> None:
    prompt = ChatTemplate(QWEN3).render(THOUGHT)
    assert "old" not in prompt
    assert "new" not in prompt


def test_what_a_template_sees_of_a_message() -> None:
    template = ChatTemplate(
        "{% for message in messages %}{{ message | tojson(sort_keys=true) }}\n{% endfor %}"
    )
    seen = [json.loads(line) for line in template.render(TOOL_TURNS).splitlines()]
    function = {"name": "look_up", "arguments": CALL.arguments}
    assert seen[1] == {"role": "user", "content": "What is it?"}
    assert seen[2]["tool_calls"][0] == {"type": "function", "id": "call_1", "function": function}
    assert "id" not in seen[2]["tool_calls"][1]
    assert seen[3] == {"role": "tool", "content": "it is <it>", "name": "look_up", "tool_call_id": "call_1"}
    assert seen[5]["reasoning_content"] == "Hm."


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{{ bos_token }}a{{ eos_token }}", "<s>a</s>"),
        ("{{ tools is none }}", "True"),
        ("{{ {'b': 'é<', 'a': 1} | tojson }}", '{"b": "é<", "a": 1}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ {'b': 1} | tojson(indent=1) }}", '{\n "b": 1\n}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% for a in [1, 2, 3] %}{% if a == 2 %}{% break %}{% endif %}{{ a }}{% endfor %}", "1"),
        ("  {% if true %}\na\n  {% endif %}\n", "a\n"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ messages[0]['content'].strip() }}{{ missing }}", "Hello <b> & 'you'"),
    ],
)
def test_what_templates_count_on(source: str, prompt: str) -> None:
    assert ChatTemplate(source, bos="<s>", eos="</s>").render(PLAIN) == prompt


def test_what_a_template_supports(smol: str) -> None:
    assert not ChatTemplate(smol).supports_thinking
    assert not ChatTemplate(QWEN25).supports_thinking
    assert ChatTemplate(QWEN3).supports_thinking


def test_a_template_that_refuses() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequest, match="refuses these messages: roles must alternate"):
        template.render(PLAIN)


@pytest.mark.parametrize(
    "source",
    [
        "{{",
        "{% if %}",
        "{% for a in b %}",
        "{% unknown %}",
        "{{ a | no_such_filter }}",
        "{% endif %}",
        "{{ 'a",
        "(" * 10 + "{{ " + "(" * 5000,
    ],
    ids=lambda source: source[:20],
)
def test_broken_templates(source: str) -> None:
    with pytest.raises(InvalidRequest, match="the model's chat template is broken: "):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content + 1 }}",
        "{{ messages[7].content }}",
        "{{ missing.attribute }}",
        "{{ 1 / 0 }}",
        "{{ 10.0 ** 1000 }}",
        "{{ range(10000000) }}",
        "{{ [1].index(2) }}",
        "{{ {}.popitem() }}",
        "{{ [].pop() }}",
        "{{ 'a' | round }}",
        "{{ [1, 'a'] | sort }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages | tojson(indent='x', separators=1) }}",
    ],
)
def test_templates_that_stumble(source: str) -> None:
    template = ChatTemplate(source)
    with pytest.raises(InvalidRequest, match="refuses these messages: "):
        template.render(PLAIN)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'].mro() }}",
        "{{ ('' | attr('__class__')).mro() }}",
        "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__globals__['__builtins__'] }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{% set _ = messages[0].pop('content') %}",
        "{{ tools.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as p %}",
        "{% extends '/etc/passwd' %}",
        "{{ open('/etc/passwd').read() }}",
        "{% set messages[0].role = 'system' %}",
        "{{ range(100000000) | list }}",
    ],
)
def test_the_sandbox(source: str) -> None:
    with pytest.raises(InvalidRequest):
        ChatTemplate(source).render(PLAIN, (LOOK_UP,))


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ self.__dict__ }}"]
)
def test_what_is_under_the_hood_is_invisible(source: str) -> None:
    assert ChatTemplate(source).render(PLAIN) == ""


def test_a_template_cannot_change_what_the_next_one_sees() -> None:
    template = ChatTemplate("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}")
    assert template.render(PLAIN) == template.render(PLAIN) == "2"
    assert LOOK_UP["type"] == "function"


ALTERNATING = (
    "{% for message in messages %}"
    "{% if not loop.first and message.role == messages[loop.index0 - 1].role %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}"
)


def test_a_template_that_wants_roles_to_alternate_gets_neighbours_as_one() -> None:
    said = [
        Message("system", "s"),
        Message("user", "a"),
        Message("user", ""),
        Message("user", "b"),
        Message("assistant", "c"),
        Message("assistant", "d"),
        Message("user", "e"),
    ]
    assert ChatTemplate(ALTERNATING).render(said) == "[system]s[user]a\n\nb[assistant]c\n\nd[user]e"


def test_what_is_more_than_words_is_not_merged() -> None:
    call = Message("assistant", tool_calls=(CALL,))
    results = [Message("tool", "1"), Message("tool", "2")]
    thought = [Message("assistant", "a"), Message("assistant", "b", thinking="hm")]
    for said in ([call, call], results, thought):
        assert merged_neighbours(said) == tuple(said)
        with pytest.raises(InvalidRequest, match="must alternate"):
            ChatTemplate(ALTERNATING).render(said)


def test_other_templates_see_the_messages_as_they_came() -> None:
    said = [Message("user", "a"), Message("user", "b")]
    assert ChatTemplate(CHATML).render(said).count("<|im_start|>user") == 2
