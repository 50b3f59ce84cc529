"""``/api/generate``: a prompt in, an answer out."""

from typing import Any

import httpx
import pytest

from tests.api.asking import GENERATOR, answer_of, chunks_of, error_of, generate, settled


def test_an_answer_is_one_object(client: httpx.Client) -> None:
    answer = answer_of(generate(client, options={"num_predict": 4, "temperature": 0}))
    assert answer["response"]
    assert (answer["eval_count"], answer["prompt_eval_count"], answer["done_reason"]) == (4, 33, "length")
    assert answer["llm_optimizer"]["strategy"] == "direct"
    assert "message" not in answer
    assert len(answer["context"]) == 33 + 4


def test_a_stream_says_the_same(client: httpx.Client) -> None:
    options = {"num_predict": 4, "temperature": 0}
    whole = settled(generate, client, options=options)
    chunks = chunks_of(generate(client, options=options, stream=True))
    assert "".join(chunk["response"] for chunk in chunks) == whole["response"]
    assert chunks[-1]["response"] == ""
    assert chunks[-1]["context"] == whole["context"]
    for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert chunks[-1][name] > 0


def test_headers_say_what_was_done(client: httpx.Client) -> None:
    headers = generate(client).headers
    assert headers["X-LLM-Optimizer-Strategy"] == "direct"
    assert headers["X-LLM-Optimizer-Tokens-Received"] == "33"
    assert generate(client, stream=True).headers["X-LLM-Optimizer-Strategy"] == "direct"


def test_raw_is_read_without_a_template(client: httpx.Client) -> None:
    answer = answer_of(generate(client, raw=True, prompt="one two three"))
    assert answer["prompt_eval_count"] == 3
    assert "context" not in answer


@pytest.mark.parametrize("beside", [{"system": "x"}, {"template": "x"}, {"context": [1]}])
def test_raw_stands_alone(client: httpx.Client, beside: dict[str, Any]) -> None:
    text = "raw mode does not support template, system, or context"
    assert error_of(generate(client, raw=True, **beside)) == text


def test_raw_takes_empty_companions(client: httpx.Client) -> None:
    answer_of(generate(client, raw=True, system="", template="", context=[]))


def test_a_template_of_ones_own_is_refused_not_ignored(client: httpx.Client) -> None:
    assert "template" in error_of(generate(client, template="{{ .Prompt }}"))


def test_system_takes_the_place_of_the_models_own(client: httpx.Client) -> None:
    own = answer_of(generate(client))["prompt_eval_count"]
    assert answer_of(generate(client, system="Be brief."))["prompt_eval_count"] < own
    assert answer_of(generate(client, system=""))["prompt_eval_count"] == own


def test_context_goes_before_the_prompt(client: httpx.Client) -> None:
    first = answer_of(generate(client))
    second = answer_of(generate(client, context=first["context"]))
    assert second["prompt_eval_count"] == len(first["context"]) + first["prompt_eval_count"]
    assert second["context"][: len(first["context"])] == first["context"]


@pytest.mark.parametrize("context", [[-1], [49152], [10**400], [1.5], ["x"], [None], "x", {}])
def test_context_is_a_list_of_tokens(client: httpx.Client, context: Any) -> None:
    assert error_of(generate(client, context=context)).startswith("context")


@pytest.mark.parametrize("prompt", ["x", ""])
@pytest.mark.parametrize("stream", [True, False])
def test_suffix_needs_a_model_that_fills_gaps(client: httpx.Client, prompt: str, stream: bool) -> None:
    text = error_of(generate(client, prompt=prompt, suffix="return x", stream=stream))
    assert text == f"registry.ollama.ai/library/{GENERATOR} does not support insert"


def test_images(client: httpx.Client) -> None:
    assert "images.0 holds illegal base64 data" in error_of(
        generate(client, images=["data:image/png;base64,aGk="])
    )
    assert "images.1" in error_of(generate(client, images=["aGk=", 5]))
    assert "image" in error_of(generate(client, images=["aGk="]))


def test_thinking(client: httpx.Client) -> None:
    assert error_of(generate(client, think=True)) == f'"{GENERATOR}" does not support thinking'
    assert "thinking" not in answer_of(generate(client, think=False))


def test_a_prompt_that_cannot_fit_is_refused(client: httpx.Client) -> None:
    text = "prompt is too long: 9000 tokens exceed the context window of 8192 tokens"
    assert error_of(generate(client, prompt="word" + " word" * 8999, raw=True)) == text
