import pytest

from server.domain.chat import ChatRequest, Message, RunOptions, ToolChoice, ToolMode
from server.domain.errors import InvalidRequest
from server.engine.grammar import grammar_of
from server.service.wishes import with_tool_choice

LOOK = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}
GO = {"type": "function", "function": {"name": "go"}}


def chat(choice: ToolChoice, *tools: dict[str, object]) -> ChatRequest:
    options = RunOptions(format="json")
    return ChatRequest("m", (Message("user", "x"),), tools, tool_choice=choice, options=options)


def test_auto_changes_nothing() -> None:
    request = chat(ToolChoice(), LOOK)
    assert with_tool_choice(request) is request


def test_none_takes_the_tools_away() -> None:
    assert with_tool_choice(chat(ToolChoice(ToolMode.NONE), LOOK)).tools == ()


def test_required_allows_every_tool_and_nothing_else() -> None:
    wanted = with_tool_choice(chat(ToolChoice(ToolMode.REQUIRED), LOOK, GO)).options.format
    assert isinstance(wanted, dict)
    assert [call["properties"]["name"]["const"] for call in wanted["anyOf"]] == ["look", "go"]
    assert grammar_of(wanted)


def test_a_named_tool_is_the_only_one() -> None:
    wanted = with_tool_choice(chat(ToolChoice(ToolMode.REQUIRED, "look"), LOOK, GO)).options.format
    assert isinstance(wanted, dict)
    assert wanted["properties"]["name"] == {"const": "look"}
    assert wanted["properties"]["arguments"]["properties"] == {"at": {"type": "string"}}


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_tool_without_parameters_is_called_with_nothing(parameters: dict[str, object] | None) -> None:
    tool = {"type": "function", "function": {"name": "wait", "parameters": parameters}}
    wanted = with_tool_choice(chat(ToolChoice(ToolMode.REQUIRED), tool)).options.format
    assert isinstance(wanted, dict)
    assert wanted["properties"]["arguments"]["additionalProperties"] is False


def test_a_choice_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="has no tools"):
        with_tool_choice(chat(ToolChoice(ToolMode.REQUIRED)))
    with pytest.raises(InvalidRequest, match='"fly", which is none of the tools: look, go'):
        with_tool_choice(chat(ToolChoice(ToolMode.REQUIRED, "fly"), LOOK, GO))
