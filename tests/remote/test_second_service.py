"""The generator is another llm-optimizer's: all dialects, tools, B and C, and what is told of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from tests.remote.far import (
    COUNTED,
    DIRECT,
    EGYPT,
    GENERATOR,
    HELPER,
    JAPAN,
    MONTHS,
    chat,
    hang_up_in_the_middle,
    history,
    near,
    running_there,
)
from tests.running import RunningServer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def server(
    skilled_server: RunningServer, embedded_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Its generator is the skilled server's, its helper its own."""
    with near(tmp_path_factory.mktemp("near"), embedded_model, skilled_server.url) as running:
        yield running


@pytest.fixture(scope="module")
def far(skilled_server: RunningServer) -> Iterator[httpx.Client]:
    """The other service itself."""
    with skilled_server.client() as connected:
        yield connected


def same(path: str, body: dict[str, Any], client: httpx.Client, far: httpx.Client) -> tuple[Any, Any]:
    answers = [asked.post(path, json=body, headers=DIRECT) for asked in (client, far)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    return answers[0].json(), answers[1].json()


def lines(client: httpx.Client, path: str, body: dict[str, Any]) -> list[str]:
    with client.stream("POST", path, json=body, headers=DIRECT) as response:
        assert response.status_code == 200
        return [line for line in response.iter_lines() if line]


def test_ollamas_chat(client: httpx.Client, far: httpx.Client) -> None:
    body = chat(MONTHS, stream=False)
    mine, theirs = same("/api/chat", body, client, far)
    assert mine["message"]["content"] == theirs["message"]["content"] != ""
    assert mine["done_reason"] == theirs["done_reason"]
    assert mine["prompt_eval_count"] == theirs["prompt_eval_count"]
    assert mine["eval_count"] == theirs["eval_count"]
    assert "tokens_estimated" not in mine["llm_optimizer"]


def test_ollamas_stream(client: httpx.Client, far: httpx.Client) -> None:
    body = chat(JAPAN)
    mine, theirs = ([json.loads(line) for line in lines(one, "/api/chat", body)] for one in (client, far))
    words = ["".join(chunk["message"]["content"] for chunk in told) for told in (mine, theirs)]
    assert words[0] == words[1] != ""
    assert len(mine) > 2


def test_ollamas_generate(client: httpx.Client, far: httpx.Client) -> None:
    for prompt, more in ((COUNTED, {}), (COUNTED, {"raw": True}), (MONTHS, {"system": "Be brief."})):
        body = {"model": GENERATOR, "prompt": prompt, "stream": False, **more}
        body["options"] = {"temperature": 0, "num_predict": 8}
        mine, theirs = same("/api/generate", body, client, far)
        assert mine["response"] == theirs["response"] != ""
        assert "context" not in mine


def test_openais_chat_and_completions(client: httpx.Client, far: httpx.Client) -> None:
    body = {"model": GENERATOR, "messages": [{"role": "user", "content": MONTHS}]}
    body |= {"temperature": 0, "max_tokens": 8}
    mine, theirs = same("/v1/chat/completions", body, client, far)
    assert mine["choices"][0]["message"]["content"] == theirs["choices"][0]["message"]["content"] != ""
    assert mine["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
    body = {"model": GENERATOR, "prompt": COUNTED, "temperature": 0, "max_tokens": 8}
    mine, theirs = same("/v1/completions", body, client, far)
    assert mine["choices"][0]["text"] == theirs["choices"][0]["text"] != ""


def test_responses_and_messages(client: httpx.Client, far: httpx.Client) -> None:
    body = {"model": GENERATOR, "input": JAPAN, "temperature": 0, "max_output_tokens": 16}
    mine, theirs = same("/v1/responses", body, client, far)
    assert mine["output"][0]["content"] == theirs["output"][0]["content"]
    body = {"model": GENERATOR, "max_tokens": 8, "temperature": 0}
    body["messages"] = [{"role": "user", "content": EGYPT}]
    mine, theirs = same("/v1/messages", body, client, far)
    assert mine["content"] == theirs["content"]
    events = lines(client, "/v1/messages", {**body, "stream": True})
    assert any("content_block_delta" in line for line in events)
    body = {"model": GENERATOR, "messages": body["messages"]}
    mine, theirs = same("/v1/messages/count_tokens", body, client, far)
    assert mine == theirs


@pytest.mark.parametrize("api", ["/api/chat", "/v1/chat/completions"])
def test_tools_and_forced_calls(client: httpx.Client, api: str) -> None:
    body = chat("Weather in Rome?", stream=False, tools=[WEATHER], tool_choice="required", num_predict=60)
    if api.startswith("/v1"):
        body |= {"temperature": 0, "max_tokens": 60}
        body.pop("options")
    answer = client.post(api, json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    message = told["message"] if "message" in told else told["choices"][0]["message"]
    [call] = message["tool_calls"]
    assert call["function"]["name"] == "weather"
    arguments = call["function"]["arguments"]
    assert set(arguments if isinstance(arguments, dict) else json.loads(arguments)) == {"city"}


def test_results_of_tools_go_along(client: httpx.Client, far: httpx.Client) -> None:
    body = chat(MONTHS, stream=False, tools=[WEATHER])
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    body["messages"] += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": "The weather in Rome: sunny, 22 degrees Celsius"},
    ]
    mine, theirs = same("/api/chat", body, client, far)
    assert mine["message"]["content"] == theirs["message"]["content"]
    assert mine["prompt_eval_count"] == theirs["prompt_eval_count"]


def test_formats(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    answer = client.post("/api/chat", json=chat("A colour?", stream=False, format=schema, num_predict=40))
    assert json.loads(answer.json()["message"]["content"])["colour"] in ("red", "blue")
    wrong = client.post("/api/chat", json=chat("A colour?", stream=False, format={"type": "colour"}))
    assert wrong.status_code == 400
    assert "colour" in wrong.json()["error"]


@pytest.mark.parametrize(("policy", "strategy"), [("one-pass", "B"), ("map-reduce", "C")])
def test_the_helper_shortens_what_is_sent(client: httpx.Client, policy: str, strategy: str) -> None:
    body = {**chat("", stream=False), "messages": history(3)}
    answer = client.post("/api/chat", json=body, headers={"X-LLM-Optimizer-Policy": policy})
    done = answer.json()["llm_optimizer"]
    assert done["strategy"] == strategy, done
    assert done["summaries"] >= 1
    assert done["tokens_sent"] < done["tokens_received"]


def test_the_thresholds_count_exactly(client: httpx.Client, far: httpx.Client) -> None:
    told = client.post("/api/router/explain", json={**chat(""), "messages": history(3)}).json()
    counted = far.post("/api/tokenize", json={"model": GENERATOR, "messages": history(3)}).json()["count"]
    assert told["tokens_received"] == counted


def test_a_hang_up_ends_it_there(server: RunningServer, skilled_server: RunningServer) -> None:
    hang_up_in_the_middle(server, lambda: running_there(skilled_server) == 1)


def test_what_has_no_vocabulary_here_says_so(client: httpx.Client) -> None:
    for body in ({"content": "a"}, {"messages": [{"role": "user", "content": "a"}]}):
        answer = client.post("/api/tokenize", json={"model": GENERATOR, **body})
        assert answer.status_code == 501
        assert "its vocabulary is not here" in answer.json()["error"]
    answer = client.post("/api/chat", json=chat("a", stream=False, logprobs=True))
    assert answer.status_code == 400
    assert "logprobs" in answer.json()["error"]


def test_it_is_told_of_everywhere(
    client: httpx.Client, server: RunningServer, skilled_server: RunningServer
) -> None:
    [tag] = [model for model in client.get("/api/tags").json()["models"] if model["name"] == GENERATOR]
    assert (tag["remote_host"], tag["remote_model"]) == (skilled_server.url, GENERATOR)
    shown = client.post("/api/show", json={"model": GENERATOR}).json()
    assert shown["remote_host"] == skilled_server.url
    assert shown["capabilities"] == ["completion", "tools"]
    states = {model["name"]: model["state"] for model in client.get("/api/ps").json()["models"]}
    assert states == {GENERATOR: "remote", HELPER: "loaded"}
    [distant] = client.get("/health/gpu").json()["remote"]
    assert distant["is_up"]
    assert distant["counts_exactly"]
    assert distant["figures"]["generated_tokens"] > 0
    assert client.get("/health/ready").json()["ready"]
    assert (
        f'llm_optimizer_remote_up{{host="{skilled_server.url}",model="{GENERATOR}"}} 1.0'
        in client.get("/metrics").text
    )
    assert server.logged("generator.device, generator.path have no effect")


def test_nothing_is_pulled_or_unloaded_for_it(client: httpx.Client) -> None:
    told = client.post("/api/pull", json={"model": GENERATOR, "stream": False})
    assert "its file does not belong here" in told.json()["error"]
    assert client.post("/api/generate", json={"model": GENERATOR, "keep_alive": 0}).status_code == 200
    assert client.post("/api/chat", json=chat("Hi", stream=False)).status_code == 200


def test_real_clients(server: RunningServer) -> None:
    library = ollama.Client(host=server.url, timeout=60)
    told = library.chat(GENERATOR, [{"role": "user", "content": "Hi"}])
    library._client.close()
    assert told.message.content
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model=GENERATOR, messages=[{"role": "user", "content": "Hi"}], stream=True, max_tokens=8
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
