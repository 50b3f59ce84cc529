"""Prompts, counted with the real tokenizer."""

import json
from pathlib import Path

import pytest

from bench.prompts import CHANGES, Prompter, repeatable
from server.domain.chat import Message, ToolCall
from server.domain.errors import ServiceError


@pytest.fixture(scope="module")
def prompter(embedded_model: Path) -> Prompter:
    return Prompter(embedded_model)


@pytest.mark.parametrize("tokens", [40, 60, 1400, 6000])
def test_a_listing_has_the_length_asked_for(prompter: Prompter, tokens: int) -> None:
    count = prompter.vocabulary.count(prompter.listing(repeatable("length"), tokens))

    assert tokens - 8 <= count <= tokens


def test_the_same_seed_makes_the_same_listing_and_another_one_differs_from_the_start(
    prompter: Prompter,
) -> None:
    first, again, other = (prompter.listing(repeatable(seed), 200) for seed in ("a", "a", "b"))

    assert first == again
    assert first[:12] != other[:12]


def test_text_that_is_too_short_to_be_cut_is_a_mistake(prompter: Prompter) -> None:
    with pytest.raises(ValueError, match="less than 100"):
        prompter.vocabulary.cut(["one ", "two "], 100)


@pytest.mark.parametrize("tokens", [1125, 4500])
def test_instructions_make_a_prompt_of_the_length_asked_for(prompter: Prompter, tokens: int) -> None:
    system, tools = prompter.instructions(repeatable("instructions"), tokens)
    count = prompter.vocabulary.count(prompter.chat([system, Message("user", "Hello")], tools))

    assert tokens - 40 <= count <= tokens + 10
    assert len(tools) == tokens // 375


def test_tasks_share_their_instructions_and_nothing_behind_them(prompter: Prompter) -> None:
    system, tools = prompter.instructions(repeatable("shared"), 1125)
    one, other = (prompter.chat([system, Message("user", text)], tools) for text in ("first", "second"))
    common = one[: next(at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])]

    assert prompter.vocabulary.count(common) >= 1100
    assert one.startswith(f"<|im_start|>system\n{system.content[:12]}")


def test_a_template_without_tools_still_gets_them_and_their_calls_and_results(prompter: Prompter) -> None:
    tool = {"type": "function", "function": {"name": "find_bolts"}}
    call = ToolCall("find_bolts", {"identifier": "b7"})
    messages = [
        Message("system", "Be brief."),
        Message("user", "Where is b7?"),
        Message("assistant", "I look.", tool_calls=(call,)),
        Message("tool", "dock 4", tool_name="find_bolts"),
    ]

    prompt = prompter.chat(messages, [tool])

    shown = json.dumps({"name": "find_bolts", "arguments": {"identifier": "b7"}})
    assert prompt.index("Be brief.") < prompt.index(json.dumps(tool)) < prompt.index("Where is b7?")
    assert f"I look.\n{shown}" in prompt
    assert "<|im_start|>user\ndock 4" in prompt


def test_a_chat_is_the_same_prompt_for_both_servers(prompter: Prompter) -> None:
    system, tools = prompter.instructions(repeatable("chat"), 1125)
    chat = prompter.as_chat([system, Message("user", "Hello")], tools, 2)

    assert chat.prompt == prompter.chat([system, Message("user", "Hello")], tools)
    assert chat.prompt == prompter.chat(chat.messages, chat.tools)
    assert chat.tokens == 2


def test_the_file_to_copy_is_shown_with_the_one_change(prompter: Prompter) -> None:
    prompt = prompter.file_to_copy(repeatable("file"))
    _, shown, after = prompt.split("```")

    assert shown.removeprefix("python\n").count("\n") == 300
    assert "self.mutex" in shown
    assert "maxsize=0" in shown
    assert "def task_done" in shown
    assert any(change in after for change in CHANGES)
    assert prompter.file_to_copy(repeatable("file")) == prompt


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF")

    with pytest.raises(ServiceError, match=r"broken\.gguf"):
        Prompter(file)
