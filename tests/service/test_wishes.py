"""What a request gets: its own wishes, its model's, its dialect's, in this order."""

import pytest

from server.api.options import read_options
from server.catalogue import Parameters, Recipe
from server.catalogue.records import Example
from server.domain.chat import ChatRequest, CompletionRequest, Message, RunOptions, ToolChoice, ToolMode
from server.domain.errors import InvalidRequest
from server.domain.generation import Sampling
from server.engine.grammar import grammar_of
from server.service.wishes import front_of, with_parameters, with_texts, with_tool_choice

OPENAI = Sampling(temperature=1.0, top_p=1.0)
OWN = Parameters(
    temperature=0.3, top_k=7, seed=-1, num_predict=50, num_ctx=3000, stop=["a", "b"], repeat_last_n=-5
)


def test_a_model_without_parameters_changes_nothing() -> None:
    options = read_options({"top_k": 5})
    assert with_parameters(options, Parameters()) == options


def test_a_models_parameters_come_before_the_dialects_defaults() -> None:
    got = with_parameters(read_options({}, OPENAI), OWN)
    assert (got.sampling.temperature, got.sampling.top_k, got.sampling.top_p) == (0.3, 7, 1.0)
    assert (got.sampling.seed, got.sampling.repeat_last_n) == (None, -1)
    assert (got.max_tokens, got.context_tokens, got.stop) == (50, 3000, ("a", "b"))


def test_a_request_comes_before_its_model() -> None:
    asked = {"temperature": 0.8, "top_k": 40, "seed": 3, "num_predict": 5, "num_ctx": 512, "stop": []}
    got = with_parameters(read_options(asked, OPENAI), OWN)
    assert (got.sampling.temperature, got.sampling.top_k, got.sampling.seed) == (0.8, 40, 3)
    assert (got.max_tokens, got.context_tokens, got.stop) == (5, 512, ())


def test_a_request_may_ask_for_no_end() -> None:
    assert with_parameters(read_options({"num_predict": -1}), OWN).max_tokens is None
    assert with_parameters(RunOptions(max_tokens=9), OWN).max_tokens == 9
    assert with_parameters(read_options({}), Parameters(num_predict=-1)).max_tokens is None


def test_parameters_that_nothing_is_done_with() -> None:
    options = read_options({})
    assert with_parameters(options, Parameters.model_validate({"num_gpu": 3})) == options


EXAMPLES = (Example(role="user", content="Hi"), Example(role="assistant", content="Ho"))
SHOWN = (Message("user", "Hi"), Message("assistant", "Ho"))
RECIPE = Recipe(system="Be terse.", messages=EXAMPLES)
SYSTEM = Message("system", "Be terse.")


@pytest.mark.parametrize(
    ("recipe", "first", "front"),
    [
        (Recipe(), "user", ()),
        (RECIPE, "user", (SYSTEM, *SHOWN)),
        (RECIPE, "system", SHOWN),
        (RECIPE, "developer", SHOWN),
        (Recipe(system="Be terse."), "user", (SYSTEM,)),
        (Recipe(system="Be terse."), "system", ()),
    ],
)
def test_what_stands_before_a_chat(recipe: Recipe, first: str, front: tuple[Message, ...]) -> None:
    assert front_of(recipe, [Message(first, "x"), Message("system", "y")]) == front


def test_what_stands_before_a_prompt() -> None:
    plain = CompletionRequest("m", "p")
    assert with_texts(plain, Recipe()) == plain
    got = with_texts(plain, RECIPE)
    assert (got.system, got.examples) == ("Be terse.", SHOWN)
    assert with_texts(CompletionRequest("m", "p", system="Mine."), RECIPE).system == "Mine."
    assert with_texts(CompletionRequest("m", "p", system=""), RECIPE).system == "Be terse."
    assert with_texts(CompletionRequest("m", "p", context=(1,)), RECIPE).examples == ()
    for finished in (CompletionRequest("m", "p", raw=True), CompletionRequest("m", "p", suffix="s")):
        assert with_texts(finished, RECIPE) == finished


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
