"""A chat, on a terminal and from a pipe."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.client.answers import Answer
from server.client.conversation import Conversation
from server.client.service import Service
from server.commands.screen import screen
from server.commands.slash import COMMANDS, completions, obey
from server.commands.talk import Talk
from tests.client.fake_service import Canned, FakeService, fake_service
from tests.commands.typed import typed
from tests.running import RunningServer
from tests.terminal import SPINNER_ENDS, terminal

MODEL, HELPER = "smollm2:135m", "smollm2:135m-helper"
ANSWER = Canned(
    [{"message": {"content": "Yes."}, "done": True, "eval_count": 2, "eval_duration": 500_000_000}]
)


@pytest.fixture
def talk(server: RunningServer) -> Iterator[Talk]:
    with Service(server.url) as service:
        yield Talk(service, Conversation(MODEL), screen(show_thinking=True), stats=False)


@pytest.fixture
def canned() -> Iterator[FakeService]:
    with fake_service({"/api/chat": ANSWER}) as fake:
        yield fake


@pytest.fixture
def fake_talk(canned: FakeService) -> Iterator[Talk]:
    with Service(canned.url) as service:
        yield Talk(service, Conversation(MODEL), screen(show_thinking=True), stats=False)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, errors = capsys.readouterr()
    return out + errors


def test_on_a_terminal(server: RunningServer, tmp_path: Path) -> None:
    environment = {"LLM_OPTIMIZER_URL": server.url, "XDG_STATE_HOME": str(tmp_path)}
    saved = tmp_path / "chat.json"
    with terminal(["chat", "-o", "temperature=0"], environment) as shown:
        shown.wait_for(rf"{MODEL}   /help")
        shown.wait_for(">>> ")
        shown.type("/set num_predict 6\n")
        shown.wait_for("num_predict = 6")
        shown.type('"""Say\nhello."""\n')
        # The strategy, the tokens, the first token, the speed, and all of it.
        shown.wait_for(r"A \d+ tokens.* · first token \d+\.\d\d s · \d tokens at [\d.]+/s · \d+\.\d\d s")
        shown.type("/set num_predict default\n")
        shown.wait_for(">>> ")
        shown.type("Tell me a very long story about a fox.\n")
        shown.wait_for(f"{SPINNER_ENDS}.*\\w+ \\w+")
        shown.press_ctrl_c()
        shown.wait_for(">>> ")
        shown.press_ctrl_c()
        shown.wait_for("Ctrl-D or /bye ends the chat")
        # What is pasted is one text, and Tab completes.
        shown.type("\x1b[200~one\ntwo\x1b[201~")
        shown.type("\n")
        shown.wait_for("first token")
        shown.type(f"/sa\t {saved}\n")
        shown.wait_for("saved to")
        # Ctrl-D is a key at the prompt only: before it, the terminal takes it for itself.
        shown.wait_for(">>> ")
        shown.type("\x04")
        assert shown.end() == 0
    questions = [one["content"] for one in json.loads(saved.read_text())["messages"] if one["role"] == "user"]
    assert questions == ["Say\nhello.", "Tell me a very long story about a fox.", "one\ntwo"]
    history = tmp_path / "llm-optimizer" / "history"
    assert "Tell me a very long story about a fox." in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "Traceback" not in shown.seen


def test_run_without_a_question_is_a_chat(server: RunningServer, tmp_path: Path) -> None:
    environment = {"LLM_OPTIMIZER_URL": server.url, "XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1"}
    with terminal(["run", MODEL], environment) as shown:
        shown.wait_for(">>> ")
        shown.type("/bye\n")
        assert shown.end() == 0


def test_from_a_pipe_each_line_is_a_question(server: RunningServer) -> None:
    lines = '/set num_predict 3\nHello.\n"""One\ntwo."""\n/stats\n/bye\nnever\n'
    done = typed("chat", text=lines, url=server.url)
    assert done.code == 0
    assert ">>>" not in done.out
    first, _, _, *stats = done.out.splitlines()
    assert first == "num_predict = 3"
    assert stats[0] == "strategy     A"
    assert typed("chat", text="/nonsense\n", url=server.url).code == 1


def test_help_names_every_command(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    obey(talk, "/?")
    told = said(capsys)
    assert all(f"  {name} " in told for name in COMMANDS)


def test_another_model(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    obey(talk, "/model")
    assert said(capsys).splitlines() == [f"* {MODEL}", f"  {HELPER}"]
    obey(talk, f"/model {HELPER}")
    assert talk.conversation.model == HELPER
    obey(talk, "/model smollm2")
    assert "did you mean smollm2:135m" in said(capsys)
    assert talk.conversation.model == HELPER
    obey(talk, "/show")
    assert "architecture           llama" in said(capsys)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/set temperature 0.2", "options", {"temperature": 0.2}),
        ("/set parameter seed 7", "options", {"seed": 7}),
        ('/set stop ["a", "b"]', "options", {"stop": ["a", "b"]}),
        ("/set system be terse", "system", "be terse"),
        ("/system be terse", "system", "be terse"),
        ("/think on", "think", True),
        ("/think off", "think", False),
        ("/think high", "think", "high"),
        ("/set nothink", "think", False),
        ("/set format json", "form", "json"),
    ],
)
def test_what_can_be_set(talk: Talk, line: str, field: str, value: Any) -> None:
    obey(talk, line)
    assert getattr(talk.conversation, field) == value


def test_what_was_set_can_be_taken_back(talk: Talk) -> None:
    for line in ("/set seed 7", "/system be terse", "/think on", "/set format json"):
        obey(talk, line)
    for line in ("/set seed default", "/system off", "/think auto", "/set noformat"):
        obey(talk, line)
    assert talk.conversation == Conversation(MODEL, options={})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/hlep", "did you mean /help?"),
        ("/set temperature", "temperature default takes it back"),
        ("/think maybe", "/think takes on, off, auto"),
        ("/stats maybe", "/stats takes on, off or nothing"),
        ("/retry", "nothing was asked yet"),
        ("/save", "/save wants the name of a file"),
        ("/load nowhere.json", "there is no file nowhere.json; /model chooses a model"),
        ("/load .", "Is a directory"),
    ],
)
def test_what_cannot_be_done(talk: Talk, capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    obey(talk, line)
    assert words in said(capsys)
    assert talk.failed


def test_a_chat_is_saved_and_gone_on_with(
    canned: FakeService, fake_talk: Talk, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    obey(fake_talk, "/system be terse")
    obey(fake_talk, "/set num_predict 2")
    fake_talk.ask("Hello.")
    assert json.loads(canned.asked[-1].body) == {
        "model": MODEL,
        "messages": [{"role": "system", "content": "be terse"}, {"role": "user", "content": "Hello."}],
        "options": {"num_predict": 2},
    }
    obey(fake_talk, f"/save {file}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = fake_talk.conversation
    obey(fake_talk, "/clear")
    assert fake_talk.conversation.messages == ()
    assert fake_talk.conversation.system == "be terse"
    obey(fake_talk, f"/load {file}")
    assert fake_talk.conversation == before
    obey(fake_talk, f"/save {file}")
    said(capsys)
    other = Talk(fake_talk.service, before, fake_talk.screen, stats=False)
    obey(other, f"/save {file}")
    assert "is there already; give another name" in said(capsys)


def test_a_question_is_asked_once_more(
    canned: FakeService, fake_talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_talk.ask("Hello.")
    before = fake_talk.conversation
    canned.answers["/api/chat"] = Canned([{"message": {"content": "Another."}, "done": True}])
    obey(fake_talk, "/retry")
    assert [one["content"] for one in fake_talk.conversation.messages] == ["Hello.", "Another."]
    assert fake_talk.conversation != before
    # What was refused is not remembered, but can be asked again.
    before = fake_talk.conversation
    canned.answers["/api/chat"] = Canned({"error": "not now"}, 503)
    fake_talk.ask("And now?")
    assert "llm-optimizer: not now" in said(capsys)
    assert fake_talk.conversation == before
    canned.answers["/api/chat"] = ANSWER
    obey(fake_talk, "/stats on")
    obey(fake_talk, "/retry")
    assert fake_talk.conversation.messages[-2]["content"] == "And now?"


def test_figures_follow_each_answer_where_they_are_wished_for(
    fake_talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_talk.ask("Hello.")
    assert said(capsys) == "Yes.\n"
    obey(fake_talk, "/stats on")
    said(capsys)
    fake_talk.ask("Hello.")
    assert re.fullmatch(r"Yes\.\nfirst token 0\.\d\d s · 2 tokens at 4\.0/s\n", said(capsys))


def test_tab_completes(talk: Talk, tmp_path: Path) -> None:
    assert completions(talk, "/s") == ["/show", "/system", "/set", "/stats", "/save"]
    assert completions(talk, "hello") == []
    assert completions(talk, "/model smollm2:135m-") == [HELPER]
    assert completions(talk, "/set top") == ["top_k", "top_p"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.json").touch()
    assert completions(talk, f"/load {tmp_path}/f") == [f"{tmp_path}/file.json", f"{tmp_path}/folder/"]


def test_figures_need_an_answer(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    obey(talk, "/stats")
    talk.last = Answer("half", "", None, None)
    obey(talk, "/stats")
    assert said(capsys) == "there is no whole answer yet\n" * 2
