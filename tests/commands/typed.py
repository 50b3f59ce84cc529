"""Commands as they are typed, but in this process: a Python of its own for each would take half a second."""

from collections.abc import Mapping
from dataclasses import dataclass

from typer.testing import CliRunner

from server.cli import command_line


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    errors: str


def typed(
    *arguments: str,
    url: str | None = None,
    text: str | bytes = "",
    environment: Mapping[str, str | None] | None = None,
) -> Done:
    """What came of a command, asked of the service at ``url``, with ``text`` from a pipe."""
    variables: dict[str, str | None] = {
        "LLM_OPTIMIZER_URL": url,
        "OLLAMA_HOST": None,
        "LLM_OPTIMIZER_API_KEY": None,
        "COLUMNS": "80",
        **(environment or {}),
    }
    result = CliRunner().invoke(
        command_line(), list(arguments), input=text, env=variables, prog_name="llm-optimizer"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)
