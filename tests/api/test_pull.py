"""Installing models from a hub, which here is a small server that may fail on demand."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ollama
import pytest

from bench.tiny_models import write_bert, write_llama
from server.catalogue import ModelName
from tests.api.asking import error_of, eventually
from tests.api.workshop import BIG, EMBED, PULLED, Workshop
from tests.fake_hub import HubFileOnDemand
from tests.running import PROJECT

MIB = 2**20
HF = "hf.co/org/repo"
HELLO = ("user", "Hello")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF of 25 MiB, which comes in pieces of one."""
    model = write_llama(tmp_path_factory.mktemp("pull") / "tiny.gguf").read_bytes()
    return model + bytes(25 * MIB - len(model))


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    return write_llama(tmp_path / "tiny.gguf").read_bytes()


def pull(bench: Workshop, name: str, **body: Any) -> list[dict[str, Any]]:
    return bench.steps("/api/pull", model=name, **body)


def failed(bench: Workshop, name: str) -> str:
    *steps, last = pull(bench, name)
    assert steps[0] == {"status": "pulling manifest"}
    assert list(last) == ["error"]
    text: str = last["error"]
    return text


def test_a_pull_tells_its_progress(bench: Workshop, large: bytes) -> None:
    bench.hub.add("org/repo", m_Q8_0_gguf=b"other", m_Q4_K_M_gguf=large)
    steps = pull(bench, HF)
    sha256 = bench.hub.repositories["org/repo"]["m_Q4_K_M.gguf"].sha256
    layer = {"status": f"pulling {sha256[:12]}", "digest": f"sha256:{sha256}", "total": 25 * MIB}
    assert steps == [
        {"status": "pulling manifest"},
        layer,
        *({**layer, "completed": size * MIB} for size in range(1, 26)),
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    tag = bench.tag(f"{HF}:latest")
    assert (tag["digest"], tag["size"]) == (sha256, 25 * MIB)
    assert (bench.models_dir / "hf.co+org+repo@latest.gguf").read_bytes() == large
    answer = bench.chat("HF.co/Org/Repo", HELLO)
    assert answer["llm_optimizer"]["strategy"] == "direct"
    assert f"{HF}:latest" in bench.loaded()


def test_an_installed_model_is_not_downloaded_again(bench: Workshop, tiny: bytes) -> None:
    bench.hub.add("org/repo", m_Q4_0_gguf=tiny)
    assert bench.client.post("/api/pull", json={"name": HF, "stream": False}).json() == {"status": "success"}
    assert len(bench.hub.ranges) == 1
    assert pull(bench, HF)[-1] == {"status": "success"}
    assert len(bench.hub.ranges) == 1


def test_a_newer_file_takes_the_place_of_the_old_one(bench: Workshop, tiny: bytes) -> None:
    bench.hub.add("org/repo", m_gguf=tiny)
    pull(bench, HF)
    bench.chat(HF, HELLO)
    bench.client.post("/api/copy", json={"source": HF, "destination": "old"})
    newer = tiny + b"newer"
    bench.hub.add("org/repo", m_gguf=newer)
    assert pull(bench, HF)[-1] == {"status": "success"}
    assert bench.tag(f"{HF}:latest")["size"] == len(newer)
    assert bench.tag("old:latest")["size"] == len(tiny)
    assert eventually(lambda: f"{HF}:latest" not in bench.loaded())
    bench.chat(HF, HELLO)
    bench.chat("old", HELLO)


@pytest.mark.parametrize("quant", ["Q8_0", "q8_0"])
def test_a_quantisation(bench: Workshop, tiny: bytes, quant: str) -> None:
    bench.hub.add("org/repo", m_Q4_K_M_gguf=b"other", m_Q8_0_gguf=tiny)
    name = f"huggingface.co/org/repo:{quant}"
    assert pull(bench, name)[-1] == {"status": "success"}
    assert name in bench.names()


def test_a_configured_model_lands_where_the_settings_say(bench: Workshop, tiny: bytes) -> None:
    bench.hub.add("unsloth/Qwen3-1.7B-GGUF", **{"Qwen3-1.7B-Q4_K_M_gguf": tiny})
    assert error_of(
        bench.client.post("/api/chat", json={"model": PULLED, "messages": [{"role": "user"}]}), 500
    )
    assert pull(bench, "QWEN3:1.7b")[-1] == {"status": "success"}
    assert bench.helper.read_bytes() == tiny
    assert bench.names() == {BIG, EMBED, PULLED}
    assert bench.chat(PULLED, HELLO)["llm_optimizer"]["reason"] == "the chat names the helper"
    steps = [step["status"] for step in pull(bench, PULLED)]
    assert "verifying sha256 digest" in steps
    assert steps[-1] == "success"
    bench.helper.write_bytes(tiny + b"mine")
    assert "helper.path = " in failed(bench, PULLED)
    assert bench.helper.read_bytes() == tiny + b"mine"
    bench.client.post("/api/generate", json={"model": PULLED, "keep_alive": 0})


def test_an_alias_of_the_list_is_installed_beside_its_model(bench: Workshop, tmp_path: Path) -> None:
    content = write_bert(tmp_path / "bert.gguf").read_bytes()
    bench.hub.add("nomic-ai/nomic-embed-text-v1.5-GGUF", **{"nomic-embed-text-v1.5.Q8_0_gguf": content})
    assert pull(bench, "nomic-embed-text:v1.5")[-1] == {"status": "success"}
    names = {"nomic-embed-text:v1.5", "nomic-embed-text:latest"}
    assert names < bench.names()
    for name in names:
        body = {"model": name, "input": ["a", "b"]}
        assert len(bench.client.post("/api/embed", json=body).json()["embeddings"]) == 2
    assert len(names & bench.loaded()) == 1


def test_a_broken_download_goes_on_with_the_next_pull(bench: Workshop, large: bytes) -> None:
    bench.hub.add("org/repo", m_gguf=large)
    # The connection breaks, and the hub wants an account when the download goes on.
    bench.hub.faults = [12 * MIB, 401]
    assert "wants an account for org/repo/m.gguf (401)" in failed(bench, HF)
    assert f"{HF}:latest" not in bench.names()
    [part] = bench.models_dir.glob("*.part")
    assert part.stat().st_size == 12 * MIB
    steps = pull(bench, HF)
    assert steps[1]["completed"] == 12 * MIB
    assert steps[-1] == {"status": "success"}
    assert bench.hub.ranges == [None, f"bytes={12 * MIB}-", f"bytes={12 * MIB}-"]
    assert list(bench.models_dir.glob("*.part")) == []


def test_whoever_hangs_up_stops_it_and_the_next_goes_on(bench: Workshop, large: bytes) -> None:
    bench.hub.add("org/repo", m_gguf=large)
    bench.hub.hold_after_bytes = 11 * MIB
    with (
        bench.server.client() as other,
        other.stream("POST", "/api/pull", json={"model": HF}) as response,
    ):
        for line in response.iter_lines():
            if json.loads(line).get("completed"):
                break
    bench.hub.hold_after_bytes = None
    bench.hub.go_on.set()
    assert eventually(lambda: bool(bench.server.logged(f"pull of {HF}:latest stopped")))
    assert f"{HF}:latest" not in bench.names()
    assert pull(bench, HF)[-1] == {"status": "success"}
    last = bench.hub.ranges[-1]
    assert last is not None
    assert int(last.removeprefix("bytes=").removesuffix("-")) in range(MIB, 12 * MIB, MIB)


def test_two_pulls_of_one_name_share_the_download(bench: Workshop, large: bytes) -> None:
    bench.hub.add("org/repo", m_gguf=large)
    bench.hub.hold_after_bytes = 11 * MIB
    with ThreadPoolExecutor(1) as pool, bench.server.client() as other:
        first = pool.submit(pull, bench, HF)
        assert bench.hub.held.wait(60)
        with other.stream("POST", "/api/pull", json={"model": HF.upper()}) as response:
            second = (json.loads(line) for line in response.iter_lines())
            assert next(second)["status"].startswith("pulling ")
            bench.hub.hold_after_bytes = None
            bench.hub.go_on.set()
            assert list(second)[-1] == {"status": "success"}
        assert first.result()[-1] == {"status": "success"}
    assert len(bench.hub.ranges) == 1


def test_what_the_command_has_pulled_is_served_at_once(bench: Workshop, tmp_path: Path) -> None:
    content = write_bert(tmp_path / "bert.gguf").read_bytes()
    bench.hub.add("nomic-ai/nomic-embed-text-v1.5-GGUF", **{"nomic-embed-text-v1.5.Q8_0_gguf": content})
    bench.tags()  # the records have been read, and are read again
    command = [
        sys.executable,
        "-m",
        "server",
        "pull",
        "nomic-embed-text:v1.5",
        "--dir",
        str(bench.models_dir),
    ]
    environment = {**os.environ, "HF_ENDPOINT": bench.hub.url, "NO_PROXY": "127.0.0.1"}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, timeout=120)
    names = ("nomic-embed-text:v1.5", "nomic-embed-text:latest")
    by_command = [record_of(bench, name) for name in names]
    for name in names:
        assert "num_gpu" in bench.client.post("/api/show", json={"model": name}).json()["parameters"]
        assert bench.client.post("/api/embed", json={"model": name, "input": "a"}).status_code == 200
    for name in names:
        bench.delete(name)
    assert pull(bench, "nomic-embed-text:v1.5")[-1] == {"status": "success"}
    assert [record_of(bench, name) for name in names] == by_command


def record_of(bench: Workshop, name: str) -> dict[str, Any]:
    file = bench.models_dir / "catalogue" / f"{ModelName.parse(name).file_stem}.json"
    record: dict[str, Any] = json.loads(file.read_text())
    del record["modified_at"]
    return record


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (HubFileOnDemand(b"x", sha256="a" * 64), "arrived damaged"),
        (HubFileOnDemand(b"no model"), "is not a GGUF file"),
        (
            HubFileOnDemand(b"x", size_bytes=10**15),
            "free, and 1,000,000,000,000,000 bytes (1000000.0 GB) are to come",
        ),
    ],
)
def test_what_cannot_be_installed_leaves_nothing(bench: Workshop, file: HubFileOnDemand, text: str) -> None:
    before = set(bench.models_dir.iterdir())
    bench.hub.add("org/repo", m_gguf=file)
    assert text in failed(bench, HF)
    assert set(bench.models_dir.iterdir()) - {bench.models_dir / "catalogue"} <= before


def test_what_the_hub_does_not_have(bench: Workshop) -> None:
    assert "the hub does not have org/repo" in failed(bench, HF)
    bench.hub.add("org/repo", **{"m-00001-of-00002_gguf": b"x", "m-00002-of-00002_gguf": b"x"})
    assert "one of several parts, which cannot be served" in failed(bench, HF)
    bench.hub.add("org/repo", m_Q8_0_gguf=b"x", mmproj_F16_gguf=b"y")
    assert 'fits "F16"; there are: m_Q8_0.gguf' in failed(bench, f"{HF}:F16")
    body = {"model": f"{HF}:F16", "stream": False}
    assert 'fits "F16"' in error_of(bench.client.post("/api/pull", json=body), 400)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["nothing", "qwen3:1.7b-cloud", "hf.co/org/repo:cloud", "me/qwen3:1.7b"])
def test_a_name_that_nobody_knows(bench: Workshop, name: str, stream: bool) -> None:
    text = error_of(bench.client.post("/api/pull", json={"model": name, "stream": stream}), 404)
    assert text.startswith(f"model '{name}' not found")
    assert "qwen2.5-coder:7b" in text
    assert "hf.co/ORG/REPO:QUANT" in text


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": "a b"}, {"name": "x:cloud:local"}])
def test_no_name(bench: Workshop, body: dict[str, Any]) -> None:
    assert error_of(bench.client.post("/api/pull", json=body)).startswith("invalid model name")


@pytest.mark.parametrize("name", [BIG, EMBED, "terse"])
def test_what_is_here_and_nowhere_else_is_a_success(bench: Workshop, name: str) -> None:
    bench.create("terse", **{"from": BIG})
    assert pull(bench, name, insecure=True)[-1] == {"status": "success"}
    assert bench.hub.ranges == []


def test_the_client_library(bench: Workshop, tiny: bytes) -> None:
    bench.hub.add("org/repo", m_gguf=tiny)
    client = ollama.Client(host=bench.server.url, timeout=60)
    steps = list(client.pull(HF, stream=True))
    assert steps[-1].status == "success"
    assert max(step.completed or 0 for step in steps) == len(tiny)
    assert {step.total for step in steps if step.digest} == {len(tiny)}
    assert client.pull(HF).status == "success"
    with pytest.raises(ollama.ResponseError, match="does not have org/other"):
        list(client.pull("hf.co/org/other", stream=True))
    with pytest.raises(ollama.ResponseError) as raised:
        client.pull("nothing")
    assert raised.value.status_code == 404
    client._client.close()
