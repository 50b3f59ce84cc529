"""Options and arguments that several commands have."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from server.commands.completing import model_names
from server.commands.failing import WRONG_USE, end

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Name of a model.", show_default=False, autocompletion=model_names),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="LLM_OPTIMIZER_URL",
        help="Where the service is; else where --config lets it listen, else OLLAMA_HOST.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with the settings of the service."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the service answers it.")]

System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", metavar="NAME=VALUE", help="An option as Ollama has it, such as temperature=0."
    ),
]
Think = Annotated[
    bool | None,
    typer.Option("--think/--no-think", help="Whether a thinking model thinks.", show_default=False),
]
HideThinking = Annotated[bool, typer.Option("--hide-thinking", help="Do not show what it thinks.")]


def options_of(given: Sequence[str] | None) -> dict[str, Any]:
    """The options that were given as NAME=VALUE; what is none ends the command."""
    options = {}
    for one in given or ():
        name, equals, text = one.partition("=")
        if not (name and equals):
            end(f'--option must be NAME=VALUE, such as temperature=0.2, and "{one}" is not', WRONG_USE)
        options[name] = value_of(text)
    return options


def value_of(text: str) -> Any:
    """A number, a list, true or false where it reads as one; else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
