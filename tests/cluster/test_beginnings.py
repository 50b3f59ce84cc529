"""What two requests share at their beginnings."""

from typing import Any

import pytest

from server.cluster.beginnings import Beginnings, beginnings_of, folded

SYSTEM = {"role": "system", "content": "You are short."}
ASKED = {"role": "user", "content": "Hello"}
SAID = {"role": "assistant", "content": "Hi!"}
MORE = {"role": "user", "content": "And now?"}


def chat(*messages: Any, path: str = "/api/chat", **more: Any) -> Beginnings:
    return beginnings_of(path, {"model": "m", "messages": list(messages), **more})


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_a_later_turn_begins_with_all_of_the_one_before(path: str) -> None:
    first, later = chat(SYSTEM, ASKED, path=path), chat(SYSTEM, ASKED, SAID, MORE, path=path)
    assert later.opening == first.opening
    assert later.turns[: len(first.turns)] == first.turns
    assert len(later.turns) == 3
    assert later.root == first.root == first.turns[0]


def test_another_word_early_on_changes_all_that_follows() -> None:
    one, other = chat(SYSTEM, ASKED, SAID, MORE), chat(SYSTEM, {**ASKED, "content": "Hallo"}, SAID, MORE)
    assert one.opening == other.opening
    assert not set(one.turns) & set(other.turns)


@pytest.mark.parametrize("change", [{"tools": [{"name": "look"}]}, {"system": "Be long."}])
def test_tools_and_system_prompt_come_before_the_conversation(change: dict[str, Any]) -> None:
    plain, changed = chat(ASKED, path="/v1/messages"), chat(ASKED, path="/v1/messages", **change)
    assert plain.opening != changed.opening
    assert plain.turns != changed.turns


def test_another_model_is_another_beginning_whatever_its_spelling() -> None:
    ask = {"messages": [ASKED]}
    one, same, other = (beginnings_of("/api/chat", {"model": m, **ask}) for m in ("Qwen", "qwen:latest", "q"))
    assert one == same
    assert one.root != other.root
    assert folded("library/Qwen") == "qwen:latest"


def test_marks_for_caching_move_without_a_change() -> None:
    marked = {
        "role": "user",
        "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
    }
    plain = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    assert chat(marked, path="/v1/messages") == chat(plain, path="/v1/messages")


def test_responses_have_instructions_and_items() -> None:
    body = {"model": "m", "instructions": "Be short.", "input": [ASKED]}
    first = beginnings_of("/v1/responses", body)
    later = beginnings_of("/v1/responses", {**body, "input": [ASKED, SAID, MORE]})
    assert later.turns[:1] == first.turns
    assert beginnings_of("/v1/responses", {**body, "input": "Hello"}).turns != first.turns


def test_a_single_text_shares_its_marks_with_a_longer_one() -> None:
    text = "".join(chr(97 + n % 26) for n in range(700))
    short = beginnings_of("/v1/completions", {"model": "m", "prompt": text})
    longer = beginnings_of("/v1/completions", {"model": "m", "prompt": f"{text} and on it goes {text}"})
    shared = [one for one in short.turns if one in longer.turns]
    assert len(shared) == 3  # at 128, 256 and 512 characters
    assert short.turns[3:] != longer.turns[3:]


def test_tokens_of_the_turn_before_stand_in_front() -> None:
    turn = [
        beginnings_of("/api/generate", {"model": "m", "context": c, "prompt": "on"}) for c in ([1, 2], [2])
    ]
    assert turn[0].root != turn[1].root


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": 5},
        {"model": ""},
        {"model": "m", "messages": "none"},
        {"model": "m", "messages": [1, None, [2]]},
        {"model": "m", "messages": []},
        {"model": "m", "prompt": None, "context": "x"},
        {"model": "no : name / at :: all", "messages": [ASKED]},
        {"messages": [ASKED]},
    ],
)
def test_what_is_wrong_is_for_the_service_to_say(body: dict[str, Any]) -> None:
    for path in ("/api/chat", "/api/generate", "/v1/responses", "/v1/messages", "/elsewhere"):
        assert isinstance(beginnings_of(path, body), Beginnings)


def test_a_model_alone_says_where_it_is_and_no_more() -> None:
    assert beginnings_of("/api/show", {"model": "m"}) == Beginnings("m:latest")
