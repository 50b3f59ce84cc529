"""A real server on tiny models, with a folder of its own and a hub of its own."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.tiny_models import write_bert, write_llama
from tests.api.asking import answer_of, eventually
from tests.fake_hub import FakeHub
from tests.running import RunningServer, embedded_config

BIG, PULLED, EMBED = "big:7b", "qwen3:1.7b", "tiny-embed:q8_0"
"""The generator; the helper, whose file is not there until it is pulled; a file that lies there."""

LINE = "<|im_start|>{role}\n{content}<|im_end|>\n"


def prompt_tokens(*messages: tuple[str, str]) -> int:
    """Tokens of a chat as a tiny model reads it: one a byte, and one for each mark."""
    text = "".join(LINE.format(role=role, content=content) for role, content in messages)
    text += "<|im_start|>assistant\n"
    return len(text.replace("<|im_start|>", "^").replace("<|im_end|>", "$").encode())


@dataclass
class Workshop:
    server: RunningServer
    hub: FakeHub
    client: httpx.Client
    models_dir: Path
    helper: Path

    def tidy_up(self) -> None:
        """Unload everything, and remove all models but the configured ones and what the hub was told."""
        for name in self.loaded():
            self.client.post("/api/generate", json={"model": name, "keep_alive": 0})
        assert eventually(lambda: not self.loaded())
        for name in self.names() - {BIG, PULLED, EMBED}:
            assert self.delete(name).status_code == 200
        self.helper.unlink(missing_ok=True)
        for part in self.models_dir.glob("*.part"):
            part.unlink()
        self.hub.repositories.clear()
        self.hub.faults.clear()
        self.hub.ranges.clear()
        self.hub.hold_after_bytes = None
        self.hub.go_on.clear()
        self.hub.held.clear()

    def names(self) -> set[str]:
        return {model["name"] for model in self.tags()}

    def tags(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = self.client.get("/api/tags").json()["models"]
        return models

    def tag(self, name: str) -> dict[str, Any]:
        return next(model for model in self.tags() if model["name"] == name)

    def loaded(self) -> set[str]:
        return {model["name"] for model in self.client.get("/api/ps").json()["models"]}

    def delete(self, name: str) -> httpx.Response:
        return self.client.request("DELETE", "/api/delete", json={"model": name})

    def steps(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """The lines of a stream."""
        response = self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/x-ndjson"
        assert "content-length" not in response.headers
        return [json.loads(line) for line in response.text.splitlines()]

    def create(self, model: str, **body: Any) -> list[str]:
        steps = self.steps("/api/create", model=model, **body)
        assert steps[-1] == {"status": "success"}, steps
        return [step["status"] for step in steps]

    def chat(self, model: str, *messages: tuple[str, str], **options: Any) -> dict[str, Any]:
        body = {
            "model": model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "stream": False,
            "options": {"num_predict": 4, **options},
        }
        return answer_of(self.client.post("/api/chat", json=body))


@contextlib.contextmanager
def open_workshop(folder: Path) -> Iterator[Workshop]:
    models_dir, helper = folder / "models", folder / "models" / "helper.gguf"
    models_dir.mkdir()
    big = write_llama(folder / "big.gguf")
    write_bert(models_dir / "Tiny-Embed.Q8_0.gguf")
    config = folder / "config.toml"
    config.write_text(
        f'models_dir = "{models_dir}"\n'
        + embedded_config(
            big,
            generator={"name": BIG, "context": 1024, "memory_margin_mib": 16},
            helper={"name": PULLED, "path": str(helper), "context": 512, "preload": False, "kv_type": "f16"},
        )
    )
    with FakeHub() as hub, contextlib.ExitStack() as stack:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "hub"),
            "NO_PROXY": "127.0.0.1",
            "LLM_OPTIMIZER_CACHE_DIR": str(folder / "cache"),
        }
        server = RunningServer(config, environment=environment)
        stack.callback(server.kill)
        client = stack.enter_context(server.client())
        yield Workshop(server, hub, client, models_dir, helper)
