"""The command ``llm-optimizer``."""

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from server import __version__
from server.commands.bench import bench
from server.commands.chat import chat
from server.commands.completing import whole_names_in_bash
from server.commands.doctor import doctor
from server.commands.explain import explain
from server.commands.failing import CommandGroup
from server.commands.listing import list_models
from server.commands.managing import cp, rm, stop
from server.commands.ps import ps
from server.commands.pull import pull
from server.commands.run import run
from server.commands.serve import serve
from server.commands.show import show

COMMANDS: dict[str, Callable[..., Any]] = {
    "serve": serve,
    "chat": chat,
    "run": run,
    "ps": ps,
    "list": list_models,
    "show": show,
    "explain": explain,
    "bench": bench,
    "pull": pull,
    "cp": cp,
    "rm": rm,
    "stop": stop,
    "doctor": doctor,
}
"""In the order of the help."""


def command_line() -> typer.Typer:
    """All commands under one name."""
    app = typer.Typer(
        name="llm-optimizer",
        cls=CommandGroup,
        help="One Ollama-compatible service over two unequal GPUs.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name, command in COMMANDS.items():
        app.command(name)(command)
    app.command("ls", hidden=True)(list_models)
    app.command()(version)
    return app


def version() -> None:
    """Print the version."""
    typer.echo(f"llm-optimizer {__version__}")


def main() -> None:
    """Entry point of the installed command."""
    # Whatever started this may ignore Ctrl-C, as a shell does for what it puts into the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that does not know a character must not end an answer.
        sys.stdout.reconfigure(errors="replace")
    with whole_names_in_bash(os.environ):
        command_line()()
