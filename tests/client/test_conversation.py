"""What a chat keeps, what is sent of it, and what can be read back."""

import json

import pytest

from server.client.captured import Captured, read_captured
from server.client.conversation import Conversation
from server.client.errors import ClientError
from server.client.wire import CHAT

EMPTY = Conversation("m")


def test_all_of_it_is_sent_and_nothing_that_was_not_said() -> None:
    talk = EMPTY.asked("one").answered({"role": "assistant", "content": "two"})
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert talk.body == {"model": "m", "messages": messages}
    more = Conversation("m", "be terse", options={"seed": 1}, think=False, form="json", keep_alive="5m")
    assert more.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "be terse"}],
        "options": {"seed": 1},
        "think": False,
        "format": "json",
        "keep_alive": "5m",
    }


def test_a_body_can_be_gone_on_with() -> None:
    talk = Conversation("m", "be terse", options={"seed": 1}, think="low").asked("one")
    assert Conversation.of(json.loads(json.dumps(talk.body))) == talk


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "m"},
        {"messages": []},
        {"model": "m", "messages": [5]},
        {"model": "m", "messages": [{"content": "no role"}]},
        {"model": "m", "messages": [], "options": [1]},
    ],
)
def test_what_is_no_chat(body: dict[str, object]) -> None:
    with pytest.raises(ClientError):
        Conversation.of(body)


def test_the_last_question_can_be_taken_back_with_all_that_followed() -> None:
    before = EMPTY.asked("one").answered({"role": "assistant", "content": "two"})
    talk = before.asked("three").answered({"role": "assistant", "content": "four"})
    assert talk.before_last_question() == (before, "three")
    assert EMPTY.before_last_question() is None


def test_options_come_and_go() -> None:
    talk = EMPTY.with_option("seed", 1).with_option("top_k", 2).with_option("seed", None)
    assert talk.body["options"] == {"top_k": 2}
    assert "options" not in talk.with_option("top_k", None).body


@pytest.mark.parametrize(
    ("text", "captured"),
    [
        ('{"model": "m", "messages": []}', Captured(CHAT, {"model": "m", "messages": []})),
        (
            '{"method": "POST", "path": "/v1/messages?beta=true", '
            '"headers": {"x-llm-optimizer-policy": "agent"}, "body": {"model": "m"}}',
            Captured("/v1/messages", {"model": "m"}, "agent"),
        ),
        (
            '{"path": "/api/chat", "headers": [["Host", "x"], ["X-LLM-Optimizer-Policy", "direct"]], '
            '"body": "{\\"model\\": \\"m\\"}"}',
            Captured(CHAT, {"model": "m"}, "direct"),
        ),
        ('{"body": {"model": "m"}}', Captured(CHAT, {"model": "m"})),
    ],
)
def test_a_request_in_a_file(text: str, captured: Captured) -> None:
    assert read_captured(text) == captured


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"body": 5}', '{"body": "{"}', "[" * 100_000])
def test_files_without_a_request(text: str) -> None:
    with pytest.raises(ClientError):
        read_captured(text)
