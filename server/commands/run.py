"""``run``: one question, one answer."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from server.client.answers import in_full
from server.client.conversation import Conversation
from server.commands.asking import ask, tell_warnings
from server.commands.chat import Manner, converse
from server.commands.connecting import connect
from server.commands.failing import STOPPED, WRONG_USE, end
from server.commands.lines import piped
from server.commands.parameters import (
    Config,
    HideThinking,
    Model,
    Options,
    System,
    Think,
    Url,
    options_of,
)
from server.commands.screen import screen
from server.commands.tables import print_json


def run(
    model: Model,
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT",
            show_default=False,
            help="The question. What comes from a pipe is put in front of it; without both, a chat begins.",
        ),
    ] = None,
    system: System = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="FORM", help='"json", a JSON schema, or the file of one.'),
    ] = None,
    option: Options = None,
    think: Think = None,
    hide_thinking: HideThinking = False,
    keep_alive: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long the model stays loaded, such as 10m.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show strategy, tokens and times after the answer.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end: the answer with its figures.")
    ] = False,
    url: Url = None,
    config: Config = None,
) -> None:
    """Ask a model once, and print its answer as it comes.

    The answer goes to the output, all else (thinking, figures) to the errors.

    Exit codes: 0 answered, 1 the service refused or broke off, 2 wrong use or configuration,
    3 no llm-optimizer answers, 130 stopped by Ctrl-C.

    \b
    Examples:
      llm-optimizer run qwen2.5-coder:7b "Why is the sky blue?"
      cat error.log | llm-optimizer run qwen2.5-coder:7b "What went wrong here?"
      llm-optimizer run qwen3:1.7b "Three colours" --format json -o temperature=0
    """
    asked = Conversation(model, system or "", (), options_of(option), think, _form(form), keep_alive)
    question = _question(prompt or ())
    with connect(url, config) as service:
        if question is None:
            converse(service, asked, Manner(hide_thinking))
            return
        shown = screen(show_thinking=not hide_thinking)
        answer = ask(service, asked.asked(question), None if as_json else shown)
    if answer.last is None:
        raise typer.Exit(STOPPED)
    if as_json:
        print_json(answer.as_one_object)
    tell_warnings(answer, shown)
    if verbose:
        shown.note("\n".join(in_full(answer)))


def _question(words: Sequence[str]) -> str | None:
    """Material before question: so the router shortens the one and keeps the other. None: there is neither,
    and somebody sits there who can be asked."""
    if sys.stdin.isatty():
        return " ".join(words) or None
    parts = [piped().strip("\n"), " ".join(words)]
    question = "\n\n".join(part for part in parts if part.strip())
    if not question:
        end("there is no question: neither as an argument nor from a pipe", WRONG_USE)
    return question


def _form(given: str | None) -> Any:
    if given is None or given == "json":
        return given
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8-sig")
        schema = json.loads(text)
    except OSError as error:
        end(f'--format must be json, a JSON schema or its file, and "{given}": {error.strerror}', WRONG_USE)
    except ValueError as error:
        end(f"--format: the schema is not JSON: {error}", WRONG_USE)
    if not isinstance(schema, dict):
        end("--format: a JSON schema must be an object", WRONG_USE)
    return schema
