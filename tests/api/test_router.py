"""What the router does with an agent's session, on a server with a window of 2,048 tokens."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.asking import HELLO, answer_of, chat, chat_body, chunks_of, error_of
from tests.running import RunningServer, embedded_config, serving

TASK = {"role": "user", "content": "Mend stock.py."}
POLICY = "X-LLM-Optimizer-Policy"


@pytest.fixture(scope="module")
def server(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("router")
    models = folder / "models"
    models.mkdir()
    shutil.copy(embedded_model, models / "further.gguf")
    router = {
        "strategy_a_max": 400,
        "strategy_b_max": 1500,
        "summary_chars_max": 120,
        "summaries_by_helper": True,
    }
    tables = embedded_config(embedded_model, generator={"context": 2048}, router=router)
    with serving(folder, f'models_dir = "{models}"\n{tables}') as running:
        yield running


def reading(number: int, lines: int = 40) -> list[dict[str, Any]]:
    """A turn in which an agent reads a file, of about nine tokens a line."""
    text = "\n".join(f"value {line} is {line}" for line in range(lines))
    call = {"id": f"c{number}", "function": {"name": "read_file", "arguments": {"path": f"f{number}.py"}}}
    return [
        {"role": "assistant", "content": "I read it.", "tool_calls": [call]},
        {"role": "tool", "content": f"def f{number}():\n{text}", "tool_call_id": f"c{number}"},
    ]


def session(files: int, lines: int = 40) -> list[dict[str, Any]]:
    return [TASK, *(message for number in range(files) for message in reading(number, lines))]


def explain(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    headers = {POLICY: fields.pop("policy")} if "policy" in fields else {}
    response = client.post("/api/router/explain", json=chat_body(**fields), headers=headers)
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


def test_a_session_that_fits_is_left_alone(client: httpx.Client) -> None:
    done = answer_of(chat(client, messages=session(1)))["llm_optimizer"]
    assert done["tokens_sent"] == done["tokens_received"]
    assert "shortened" not in done
    assert done["reason"].startswith("tools were called in this chat: ")


def test_a_session_that_outgrows_its_window_goes_on(client: httpx.Client, server: RunningServer) -> None:
    answer = answer_of(chat(client, messages=session(8)))
    done = answer["llm_optimizer"]
    assert done["strategy"] == "A"
    assert done["tokens_sent"] < 0.75 * 2048 < 2048 < done["tokens_received"]
    assert answer["prompt_eval_count"] == done["tokens_received"]
    assert {one["how"] for one in done["shortened"]} == {"outline"}
    assert done["shortened"][0]["subject"] == "f0.py"
    assert done["shortened"][0]["message"] == 2
    assert server.logged(
        f"/api/chat: {len(done['shortened'])} old tool results shortened, "
        f"{done['tokens_received']} → {done['tokens_sent']} tokens"
    )


def test_the_next_turn_finds_what_the_last_one_read(client: httpx.Client) -> None:
    chat(client, messages=session(8))
    done = answer_of(chat(client, messages=session(9)))["llm_optimizer"]
    assert done["shortened"]
    assert done["tokens_cached"] > 0.6 * done["tokens_sent"]


def test_what_was_shortened_can_be_looked_up(client: httpx.Client) -> None:
    messages = session(8)
    done = answer_of(chat(client, messages=messages))["llm_optimizer"]
    name = done["shortened"][0]["original"]
    assert name == hashlib.sha256(messages[2]["content"].encode()).hexdigest()
    assert client.get(f"/api/router/original/{name}").text == messages[2]["content"]
    refused = error_of(client.get("/api/router/original/0123"), 404)
    assert refused == 'there is no original "0123", or not any more'


def test_explained_as_it_is_done(client: httpx.Client) -> None:
    messages = session(8)
    done = answer_of(chat(client, messages=messages))["llm_optimizer"]
    told = explain(client, messages=messages)
    assert (told["policy"], told["strategy"], told["reason"]) == ("auto", "A", done["reason"])
    assert (told["tokens_received"], told["tokens_sent"]) == (done["tokens_received"], done["tokens_sent"])
    assert [one["original"] for one in told["shortened"]] == [one["original"] for one in done["shortened"]]
    assert told["shortened"][0]["text"].startswith("[Shortened: ")
    assert told["fits"] is True
    assert told["agent"] == "tools were called in this chat"


def test_what_was_read_before_costs_nothing(client: httpx.Client) -> None:
    words = " ".join(f"word{number}" for number in range(150))
    first = [{"role": "user", "content": f"Remember this:\n\n{words}\n\nWill you?"}]
    fresh = explain(client, messages=first)
    assert fresh["strategy"] == "B"
    assert fresh["tokens_cached"] < 50
    assert fresh["tokens_sent"] is None
    assert fresh["summarised"]["characters"] > 500
    answer = answer_of(chat_with(client, "direct", first))
    later = [*first, {"role": "assistant", "content": answer["message"]["content"]}, *HELLO]
    told = explain(client, messages=later)
    assert told["strategy"] == "A"
    assert told["tokens_cached"] > 400
    assert "are not in the cache yet" in told["reason"]


def chat_with(
    client: httpx.Client, policy: str, messages: list[dict[str, Any]], **fields: Any
) -> httpx.Response:
    return client.post("/api/chat", json=chat_body(messages=messages, **fields), headers={POLICY: policy})


def test_direct_shortens_nothing(client: httpx.Client) -> None:
    refused = error_of(chat_with(client, "direct", session(8)))
    assert refused.startswith("prompt is too long: ")
    done = answer_of(chat_with(client, "direct", session(4)))["llm_optimizer"]
    assert done["reason"] == "the policy is direct"


def test_thresholds_do_not_ask_for_agents(client: httpx.Client) -> None:
    talk = [TASK, *reading(77, 60), {"role": "assistant", "content": "Done."}, *HELLO]
    assert explain(client, messages=talk)["strategy"] == "A"
    assert explain(client, messages=talk, policy="thresholds")["strategy"] == "B"
    assert explain(client, messages=talk, policy="adaptive")["strategy"] == "A"


@pytest.mark.parametrize("path", ["/api/chat", "/api/router/explain", "/v1/chat/completions", "/v1/messages"])
def test_a_policy_that_there_is_not(client: httpx.Client, path: str) -> None:
    body = {**chat_body(), "max_tokens": 1}
    response = client.post(path, json=body, headers={POLICY: "smart"})
    assert response.status_code == 400
    known = "auto, direct, thresholds, agent, adaptive, one-pass, map-reduce"
    expected = f'{POLICY} must be one of {known}, but it is "smart"'
    assert expected in json.dumps(response.json(), ensure_ascii=False).replace('\\"', '"')


def test_what_cannot_be_made_to_fit_is_refused_in_words_that_agents_know(client: httpx.Client) -> None:
    refused = error_of(chat(client, messages=session(1, lines=400)))
    assert refused.startswith("prompt is too long: ")
    assert "context window" in refused
    stream = error_of(chat(client, messages=session(1, lines=400), stream=True))
    assert stream == refused


def test_a_stream_tells_it_too(client: httpx.Client) -> None:
    response = chat(client, messages=session(8), stream=True)
    assert response.headers["x-llm-optimizer-strategy"] == "A"
    assert chunks_of(response)[-1]["llm_optimizer"]["shortened"]


def test_an_agent_on_a_further_model_is_made_to_fit_as_well(client: httpx.Client) -> None:
    told = explain(client, model="further", messages=session(30))
    assert told["context_tokens"] < told["tokens_received"]
    assert (told["policy"], told["fits"]) == ("auto", True)
    assert told["shortened"]
    plain = explain(client, model="further", messages=HELLO)
    assert (plain["policy"], plain["reason"]) == (None, "a further model is never routed")


def test_an_agent_without_tools_loses_nothing_in_silence(client: httpx.Client) -> None:
    system = {"role": "system", "content": "TOOL USE\n\nYou have tools."}
    turns = [
        message
        for number in range(30)
        for message in (
            {"role": "assistant", "content": f"Answer {number}: " + "yes " * 60},
            {"role": "user", "content": f"Question {number}: " + "why " * 60},
        )
    ]
    refused = error_of(chat(client, messages=[system, TASK, *turns]))
    assert refused.startswith("prompt is too long: ")


def test_summaries_are_the_helpers_where_that_is_wanted(client: httpx.Client, server: RunningServer) -> None:
    orders = {"role": "system", "content": "Generate a short title for the chat."}
    done = answer_of(chat(client, messages=[orders, *HELLO]))["llm_optimizer"]
    assert (done["strategy"], done["reason"]) == (
        "direct",
        "a summary is asked for, and the helper writes it",
    )
    assert server.logged("/api/chat: a summary is asked for, and the helper writes it")
    direct = answer_of(chat_with(client, "direct", [orders, *HELLO]))["llm_optimizer"]
    assert direct["reason"] == "the policy is direct"
