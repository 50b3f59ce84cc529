"""A model that thinks, over the native routes: its thoughts are apart from its words, and end no format."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.chat.template import CHATML
from tests.api.asking import answer_of, chunks_of
from tests.engine.gguf_files import with_chat_template
from tests.running import embedded_config, serving

ALWAYS, SWITCHED = "always:1b", "switched:1b"
OPENED = CHATML + "<think>\n{# enable_thinking #}"
"""As DeepSeek's R1: whatever the client wants, the thinking is open."""
BY_WISH = CHATML + "{# enable_thinking, tools #}"
"""The model is left to think or not, and knows tools by itself; this one never thinks."""


@pytest.fixture(scope="module")
def thinkers(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("thinkers")
    always = with_chat_template(embedded_model, folder / "always.gguf", OPENED)
    switched = with_chat_template(embedded_model, folder / "switched.gguf", BY_WISH)
    small = {"context": 1024, "slots": 2}
    config = embedded_config(
        always,
        generator={**small, "name": ALWAYS},
        helper={**small, "name": SWITCHED, "path": str(switched)},
    )
    with serving(folder, config) as running, running.client() as client:
        yield client


def body(model: str, **more: Any) -> dict[str, Any]:
    options = {"num_predict": 12, "temperature": 0, **more.pop("options", {})}
    question = {"messages": [{"role": "user", "content": "Name a colour."}], "prompt": "Name a colour."}
    return {"model": model, **question, "options": options, **more}


@pytest.mark.parametrize("think", [True, False, None])
@pytest.mark.parametrize("stream", [True, False])
def test_thoughts_are_no_content(thinkers: httpx.Client, think: bool | None, *, stream: bool) -> None:
    response = thinkers.post("/api/chat", json=body(ALWAYS, think=think, stream=stream))
    chunks = chunks_of(response) if stream else [answer_of(response)]
    assert "".join(chunk["message"].get("thinking", "") for chunk in chunks)
    assert "".join(chunk["message"]["content"] for chunk in chunks) == ""
    assert chunks[-1]["done_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_generate_has_them_apart_as_well(thinkers: httpx.Client, *, stream: bool) -> None:
    response = thinkers.post("/api/generate", json=body(ALWAYS, stream=stream))
    chunks = chunks_of(response) if stream else [answer_of(response)]
    assert "".join(chunk.get("thinking", "") for chunk in chunks)
    assert "".join(chunk["response"] for chunk in chunks) == ""


@pytest.mark.parametrize("think", [True, False, None])
def test_a_format_holds_where_a_model_that_can_think_does_not(
    thinkers: httpx.Client, think: bool | None
) -> None:
    colour = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    wanted = body(SWITCHED, think=think, stream=False, format=colour, options={"num_predict": 60})
    answer = answer_of(thinkers.post("/api/chat", json=wanted))
    assert json.loads(answer["message"]["content"])["colour"] in ("red", "blue")
    assert "thinking" not in answer["message"]


def test_a_call_can_be_forced_where_a_model_that_can_think_does_not(thinkers: httpx.Client) -> None:
    call = {"type": "object", "properties": {"at": {"enum": ["here"]}}, "required": ["at"]}
    tool = {"type": "function", "function": {"name": "look", "parameters": call}}
    response = thinkers.post(
        "/v1/chat/completions",
        json={
            "model": SWITCHED,
            "messages": [{"role": "user", "content": "Look."}],
            "tools": [tool],
            "tool_choice": "required",
            "temperature": 0,
            "max_tokens": 60,
        },
    )
    assert response.status_code == 200, response.text
    (called,) = response.json()["choices"][0]["message"]["tool_calls"]
    assert called["function"]["name"] == "look"
    assert json.loads(called["function"]["arguments"]) == {"at": "here"}
