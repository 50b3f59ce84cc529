import pytest

from server.domain.chat import Message, ToolCall
from server.routing.agents import agent_signs, is_summarising

HELLO = Message("user", "Hello!")


@pytest.mark.parametrize(
    ("messages", "has_tools", "signs"),
    [
        ([HELLO], True, "the request brings tools"),
        ([HELLO, Message("tool", "42")], False, "tools were called in this chat"),
        (
            [HELLO, Message("assistant", tool_calls=(ToolCall("look", {}),))],
            False,
            "tools were called in this chat",
        ),
        (
            [Message("system", "You are an agent.\n\nTOOL USE\n\nYou have tools."), HELLO],
            False,
            "its system prompt is an agent's protocol",
        ),
        (
            [Message("system", "When done, use <attempt_completion>."), HELLO],
            False,
            "its system prompt is an agent's protocol",
        ),
        (
            [Message("system", "Return a *SEARCH/REPLACE* block."), HELLO],
            False,
            "its system prompt is an agent's protocol",
        ),
        ([HELLO], False, None),
        ([Message("system", "You are helpful. TOOL USE is fine."), HELLO], False, None),
        ([Message("user", "What does <attempt_completion> mean?")], False, None),
        ([], False, None),
    ],
)
def test_signs(messages: list[Message], has_tools: bool, signs: str | None) -> None:
    assert agent_signs(messages, has_tools=has_tools) == signs


@pytest.mark.parametrize(
    "orders",
    [
        "Summarize the provided coding session so that work can go on.",
        "You are a helpful summarizer.",
        "Generate a concise, 3-5 word title for the chat.",
        "Write a short commit message for the diff.",
    ],
)
def test_summaries_are_known_by_their_orders(orders: str) -> None:
    chat = [Message("system", orders), HELLO]
    assert is_summarising(chat, has_tools=False)
    assert not is_summarising(chat, has_tools=True)
    assert not is_summarising([*chat, Message("assistant", "Done."), HELLO], has_tools=False)
    assert not is_summarising([HELLO], has_tools=False)


@pytest.mark.parametrize("orders", ["You are helpful.", "Never write summaries.", "Be a summary lover."])
def test_other_orders_are_none(orders: str) -> None:
    assert not is_summarising([Message("system", orders), HELLO], has_tools=False)
