"""What shells complete, through the real completion of a shell where its words are split in an odd way."""

import os
import subprocess
import sys

import pytest

from server.commands.completing import joined
from tests.client.fake_service import Canned, fake_service
from tests.running import PROJECT

TAGS = Canned({"models": [{"name": "qwen3:1.7b"}, {"name": "qwen3:4b"}, {"name": "other:1b"}]})


@pytest.mark.parametrize(
    ("words", "number", "whole", "place"),
    [
        (["llm-optimizer", "run", "qw"], 2, ["llm-optimizer", "run", "qw"], 2),
        (["llm-optimizer", "run", "qwen3", ":"], 3, ["llm-optimizer", "run", "qwen3:"], 2),
        (["llm-optimizer", "run", "qwen3", ":", "4"], 4, ["llm-optimizer", "run", "qwen3:4"], 2),
        (["llm-optimizer", "cp", "a", ":", "b", "c"], 5, ["llm-optimizer", "cp", "a:b", "c"], 3),
        (
            ["llm-optimizer", "ps", "--url", ":", "90"],
            4,
            ["llm-optimizer", "ps", "--url", ":90"],
            3,
        ),
        (["llm-optimizer", ""], 1, ["llm-optimizer", ""], 1),
    ],
)
def test_what_bash_takes_apart_at_colons(words: list[str], number: int, whole: list[str], place: int) -> None:
    assert joined(words, number) == (whole, place)


def completed(shell: str, url: str, **environment: str) -> list[str]:
    """What the command answers a shell."""
    program = "import sys; sys.argv[0] = 'llm-optimizer'; from server.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env={
            **os.environ,
            "_LLM_OPTIMIZER_COMPLETE": f"complete_{shell}",
            "LLM_OPTIMIZER_URL": url,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_names_of_models_come_from_the_service() -> None:
    with fake_service({"/api/tags": TAGS}) as fake:
        half = {"COMP_WORDS": "llm-optimizer\nrun\nqwen3\n:", "COMP_CWORD": "3"}
        assert completed("bash", fake.url, **half) == ["1.7b", "4b"]
        zsh = completed("zsh", fake.url, _TYPER_COMPLETE_ARGS="llm-optimizer stop q")
        assert "4b" in "".join(zsh)
        assert "other" not in "".join(zsh)


def test_where_nobody_answers_there_are_none_and_no_noise() -> None:
    words = {"COMP_WORDS": "llm-optimizer\nrun\nq", "COMP_CWORD": "2"}
    assert completed("bash", "http://127.0.0.1:9", **words) == []
