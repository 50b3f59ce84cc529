"""A list of models that cannot be read is told of in words, by every command that needs it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.catalogue import known
from server.cli import command_line
from server.commands.failing import WRONG_USE


@pytest.mark.parametrize(
    "command", [["doctor"], ["pull", "--list"], ["pull", "--verify"], ["pull", "qwen3:4b"]]
)
def test_it_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text("broken = [")
    monkeypatch.setattr(known.known_models, "__defaults__", (file,))
    monkeypatch.setenv("LLM_OPTIMIZER_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("LLM_OPTIMIZER_CACHE_DIR", str(tmp_path))
    done = CliRunner().invoke(command_line(), command)
    assert done.exit_code == WRONG_USE
    assert f"llm-optimizer: {file}: cannot be read: " in done.output
