"""Commands against a real service, and what they say where there is none."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server.commands.connecting import address_of
from server.config import load_settings
from tests.api.workshop import BIG, EMBED, PULLED, Workshop
from tests.client.fake_service import Canned, fake_service
from tests.commands.typed import typed
from tests.running import PROJECT, RunningServer
from tests.terminal import SPINNER_ENDS, terminal

MODEL, HELPER = "smollm2:135m", "smollm2:135m-helper"
TALKING = ("chat", "ps", "list", "show", "explain", "bench", "cp", "rm", "stop", "run")
SHORT = ("-o", "num_predict=4", "-o", "temperature=0")


def arguments(command: str, file: Path) -> list[str]:
    """What each of them needs at least."""
    needed = {
        "cp": ["a", "b"],
        "explain": [str(file)],
        "run": ["m", "hello"],
        "chat": [],
        "ps": [],
        "list": [],
    }
    return [command, *needed.get(command, ["m"])]


def test_the_models_in_memory(server: RunningServer) -> None:
    done = typed("ps", url=server.url)
    assert (done.code, done.errors) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.split() == ["name", "device", "size", "context", "busy", "queued", "until"]
    [row] = [row for row in rows if row.startswith(f"{MODEL} ")]
    assert row.split()[1] == "cpu"
    assert "8192  0 of 8       0  forever" in row
    told = json.loads(typed("ps", "--json", url=server.url).out)
    assert {model["name"] for model in told["models"]} == {MODEL, HELPER}


def test_the_models_that_are_here(server: RunningServer) -> None:
    for command in ("list", "ls"):
        done = typed(command, url=server.url)
        assert (done.code, done.errors) == (0, "")
        assert f"{MODEL}         94 MiB        135M  Q4_1             8192  completion" in done.out
    told = json.loads(typed("list", "--json", url=server.url).out)
    assert {model["name"] for model in told["models"]} == {MODEL, HELPER}


def test_tables_have_no_controls_and_lose_nothing_in_a_pipe(server: RunningServer) -> None:
    done = typed("list", url=server.url, environment={"COLUMNS": "20"})
    assert "\x1b" not in done.out
    assert len({line.index("modified") for line in done.out.splitlines() if "modified" in line}) == 1
    assert MODEL in done.out


def test_all_about_a_model(server: RunningServer) -> None:
    done = typed("show", MODEL, url=server.url)
    assert done.code == 0
    assert done.out.splitlines()[:4] == [
        "Model",
        "  architecture           llama",
        "  parameters             135M",
        "  quantisation           Q4_1",
    ]
    assert "general.architecture" in typed("show", MODEL, "--verbose", url=server.url).out
    modelfile = typed("show", MODEL, "--only", "modelfile", url=server.url).out
    assert modelfile.startswith("FROM SmolLM2-135M-Instruct.Q4_1.gguf\n")
    assert json.loads(typed("show", MODEL, "--json", url=server.url).out)["details"]["family"] == "llama"


def test_a_hostile_file_moves_no_cursor() -> None:
    details = dict.fromkeys(
        (
            "family",
            "parameter_size",
            "quantization_level",
            "context_length",
            "embedding_length",
            "parent_model",
        )
    )
    told = {"details": details, "capabilities": [], "parameters": "", "license": "1\x1b[2J\n2\n3\n4\n5"}
    with fake_service({"/api/show": Canned(told)}) as fake:
        shown = typed("show", "m", url=fake.url).out
    assert shown == "License\n  1[2J\n  2\n  3\n  ... and 2 lines more\n"


def test_a_name_that_nobody_has(server: RunningServer) -> None:
    for command in (("show", "smollm2"), ("run", "smollm2", "hello"), ("stop", "smollm2")):
        done = typed(*command, url=server.url)
        assert (done.code, done.out) == (1, "")
        assert "not found; did you mean smollm2:135m or smollm2:135m-helper?" in done.errors


def test_an_answer_goes_to_the_output_and_all_else_to_the_errors(server: RunningServer) -> None:
    done = typed("run", MODEL, "Say hello.", *SHORT, "--verbose", url=server.url)
    assert done.code == 0
    assert done.out.endswith("\n")
    assert done.out.count("\n") == 1
    assert "strategy     A" in done.errors
    assert "answer       4 tokens at" in done.errors
    assert "(cut off: num_predict or the context window was reached)" in done.errors
    assert "\x1b" not in done.out + done.errors


def test_a_pipe_brings_the_material_and_arguments_the_question() -> None:
    lines = [{"message": {"content": "It "}, "done": False}, {"message": {"content": "is."}, "done": True}]
    with fake_service({"/api/chat": Canned(lines)}) as fake:
        both = typed("run", "m", "Two", "words?", "--json", text="A log.\n", url=fake.url)
        typed("run", "m", "Two words?", "--system", "be terse", "--think", "-o", "stop=[1]", url=fake.url)
        typed("run", "m", "--keep-alive", "5m", text="A log.\n", url=fake.url)
    assert json.loads(both.out) == {"message": {"role": "assistant", "content": "It is."}, "done": True}
    bodies = [json.loads(asked.body) for asked in fake.asked if asked.method == "POST"]
    user = "A log.\n\nTwo words?", "Two words?", "A log."
    messages = [[{"role": "user", "content": text}] for text in user]
    messages[1].insert(0, {"role": "system", "content": "be terse"})
    assert bodies == [
        {"model": "m", "messages": messages[0]},
        {"model": "m", "messages": messages[1], "think": True, "options": {"stop": [1]}},
        {"model": "m", "messages": messages[2], "keep_alive": "5m"},
    ]


def test_answers_in_a_form(server: RunningServer, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    for form in (str(file), json.dumps(schema)):
        done = typed("run", MODEL, "A number.", "--format", form, "-o", "num_predict=40", url=server.url)
        assert (done.code, json.loads(done.out)) == (0, {"n": 7})


def test_what_a_model_thinks_is_not_in_the_output(skilled_server: RunningServer) -> None:
    asked = ("run", HELPER, "Hello", *SHORT)
    done = typed(*asked, url=skilled_server.url)
    assert (done.code, done.out) == (0, "")
    assert done.errors.startswith("Thinking ...\n")
    assert "... done thinking." in done.errors
    assert "hinking" not in typed(*asked, "--hide-thinking", url=skilled_server.url).errors
    refused = typed("run", MODEL, "Hello", "--think", url=skilled_server.url)
    assert refused.code == 1
    assert "does not support thinking" in refused.errors


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["-o", "temperature"], 2, '--option must be NAME=VALUE, such as temperature=0.2, and "temperature"'),
        (["-o", "temperature=hot"], 1, 'option "temperature" must be of type float32'),
        (["--format", "nowhere.json"], 2, "--format must be json, a JSON schema or its file"),
        (["--format", "{"], 2, "--format: the schema is not JSON"),
        (["--keep-alive", "soon"], 1, "soon"),
    ],
)
def test_what_cannot_be_done_is_said(server: RunningServer, more: list[str], code: int, words: str) -> None:
    done = typed("run", MODEL, "Hello", *more, url=server.url)
    assert (done.code, done.out) == (code, "")
    assert words in done.errors
    assert done.errors.startswith("llm-optimizer: ")


def test_bytes_that_are_no_text_keep_nobody_from_asking() -> None:
    answer = Canned([{"message": {"content": "An \x1b[31manswer"}, "done": True}])
    with fake_service({"/api/chat": answer}) as fake:
        for command in (("run", "m", "And \udcfe?"), ("chat", "m")):
            done = typed(*command, url=fake.url, text=b"a log: \xff\n")
            # A pipe gets the words as they are; what they do to a terminal is none of its business.
            assert (done.code, done.out) == (0, "An \x1b[31manswer\n")
            assert "a log: \ufffd" in json.loads(fake.asked[-1].body)["messages"][0]["content"]


def test_no_question_at_all(server: RunningServer) -> None:
    done = typed("run", MODEL, url=server.url)
    assert done.code == 2
    assert "there is no question" in done.errors


def test_a_captured_request_is_explained(server: RunningServer, tmp_path: Path) -> None:
    history = [{"role": role, "content": "word " * 1500} for role in ("user", "assistant")]
    body = {"model": MODEL, "messages": [*history, {"role": "user", "content": "Sum it up."}]}
    file = tmp_path / "request.json"
    file.write_text(json.dumps(body))
    done = typed("explain", str(file), url=server.url)
    assert (done.code, done.errors) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert lines["strategy"] == "B"
    assert lines["because"] == "up to STRATEGY_B_MAX = 6000: one pass"
    assert lines["summary"].endswith("by the helper")
    assert typed("explain", "-", url=server.url, text=json.dumps(body)).out == done.out

    for path, other in (
        ("/v1/chat/completions", body),
        ("/v1/messages", {**body, "max_tokens": 100}),
        ("/v1/responses", {"model": MODEL, "input": body["messages"]}),
    ):
        file.write_text(json.dumps({"method": "POST", "path": path, "headers": {}, "body": other}))
        assert typed("explain", str(file), url=server.url).out == done.out, path
    direct = json.loads(typed("explain", str(file), "--policy", "direct", "--json", url=server.url).out)
    assert (direct["strategy"], direct["reason"]) == ("A", "the policy is direct")
    helper = json.loads(typed("explain", str(file), "--model", HELPER, "--json", url=server.url).out)
    assert (helper["strategy"], helper["model"]) == ("direct", HELPER)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("no JSON", 1, "the file is not JSON"),
        ('{"messages": []}', 2, "the request names no model; say which is meant by --model"),
        ('{"path": "/api/embed", "body": {"model": "smollm2:135m"}}', 1, "/api/embed is not routed"),
    ],
)
def test_what_cannot_be_explained(server: RunningServer, text: str, code: int, words: str) -> None:
    done = typed("explain", "-", url=server.url, text=text)
    assert done.code == code
    assert words in done.errors
    assert typed("explain", "nowhere.json", url=server.url).code == 2


def test_shortened_results_are_a_table() -> None:
    shortened = {
        "message": 4,
        "subject": "a.py",
        "how": "outline",
        "characters": 9000,
        "characters_sent": 800,
    }
    told = {
        "model": "m",
        "policy": "auto",
        "strategy": "A",
        "reason": "why",
        "agent": "tools",
        "tokens_received": 9000,
        "tokens_cached": 10,
        "tokens_sent": 1000,
        "context_tokens": 8192,
        "fits": True,
        "shortened": [{**shortened, "text": "..."}],
    }
    with fake_service({"/api/router/explain?path=/api/chat": Canned(told)}) as fake:
        done = typed("explain", "-", url=fake.url, text='{"model": "m", "messages": []}')
    assert done.out.splitlines()[-1].split() == ["4", "a.py", "outline", "800", "9,000"]


def test_speeds_are_measured(server: RunningServer) -> None:
    done = typed("bench", MODEL, "-p", "16", "-n", "4", "-r", "1", "--json", url=server.url)
    assert (done.code, done.errors) == (0, "")
    told = json.loads(done.out)
    assert (told["device"], told["context_tokens"]) == ("cpu", 8192)
    reading, generating = told["tests"]
    assert (reading["test"], generating["test"]) == ("pp16", "tg4")
    # What is detokenised may come together in another way.
    assert all(14 <= count <= 18 for count in reading["tokens"])
    assert all(1 <= count <= 4 for count in generating["tokens"])
    assert reading["tokens_per_s_mean"] > 0
    assert len(reading["tokens_per_s"]) == len(generating["tokens_per_s"]) == 1
    assert 0 < reading["first_token_s_mean"] < 60


def test_models_come_and_go(bench: Workshop) -> None:
    url = bench.server.url
    assert typed("cp", EMBED, "other", url=url).out == f"other is {EMBED}\n"
    assert "other:latest" in typed("list", url=url).out
    assert typed("rm", "other", url=url).out == "other is removed\n"
    assert "other:latest" not in typed("list", url=url).out
    refused = typed("rm", BIG, url=url)
    assert refused.code == 1
    assert refused.errors.startswith("llm-optimizer: ")
    bench.chat(BIG, ("user", "hello"))
    assert bench.loaded() == {BIG}
    assert typed("stop", BIG, url=url).code == 0
    assert "name" in typed("ps", url=url).out
    assert BIG not in typed("ps", url=url).out
    assert typed("show", PULLED, url=url).code == 1


@pytest.mark.parametrize("command", TALKING)
def test_where_no_service_runs(command: str, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text('{"model": "m", "messages": []}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = typed(*arguments(command, file), url=url)
    assert (done.code, done.out) == (3, "")
    assert done.errors.startswith(
        f"llm-optimizer: no llm-optimizer answers at {url}: Connection refused; start"
    )
    with fake_service({"/api/version": Canned({"version": "0.32.15"})}) as ollama:
        done = typed(*arguments(command, file), url=ollama.url)
    assert (done.code, done.out) == (3, "")
    assert "an Ollama answers" in done.errors


def test_the_key_of_the_environment_goes_along() -> None:
    with fake_service({"/api/ps": Canned({"models": []})}) as fake:
        assert typed("ps", url=fake.url, environment={"LLM_OPTIMIZER_API_KEY": "secret\n"}).code == 0
    assert {asked.headers["Authorization"] for asked in fake.asked} == {"Bearer secret"}


def test_which_address_is_meant(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('listen = ["[::]:9000", "127.0.0.1:1"]\n')
    ollamas = {"OLLAMA_HOST": "https://gpu.example.org"}
    ours = {"LLM_OPTIMIZER_LISTEN": "127.0.0.1:7000"}
    assert address_of(":1", config, ollamas) == "http://127.0.0.1:1"
    assert address_of(None, config, ollamas) == "http://[::1]:9000"
    assert address_of(None, None, ollamas) == "https://gpu.example.org"
    assert address_of(None, None, {"OLLAMA_HOST": "gpu"}) == "http://gpu:11434"
    assert typed("ps", "--config", str(tmp_path / "no.toml")).code == 2
    assert address_of(None, None, {}) == "http://127.0.0.1:8512"
    assert "http://127.0.0.1:7000" in typed("ps", environment=ours).errors


def test_the_variables_of_the_client_are_no_faulty_settings() -> None:
    load_settings(None, {"LLM_OPTIMIZER_URL": ":1", "LLM_OPTIMIZER_API_KEY": "secret"}, {})


def test_ctrl_c_stops_an_answer() -> None:
    endless = Canned([{"message": {"content": "Once upon"}, "done": False}], promised_bytes=9, is_held=True)
    with (
        fake_service({"/api/chat": endless}) as fake,
        terminal(["run", "m", "A story."], {"LLM_OPTIMIZER_URL": fake.url}) as shown,
    ):
        shown.wait_for(f"{SPINNER_ENDS}.*Once upon")
        shown.press_ctrl_c()
        assert shown.end() == 130
    assert shown.seen.endswith("Once upon^C\r\n")


def test_a_pipe_that_nobody_reads_any_more() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    answer = Canned([{"message": {"content": "Once upon a time"}, "done": True}])
    try:
        with fake_service({"/api/chat": answer}) as fake:
            done = subprocess.run(
                [sys.executable, "-m", "server", "run", "m", "A story."],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.PIPE,
                env={**os.environ, "LLM_OPTIMIZER_URL": fake.url},
                timeout=60,
                check=False,
            )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
