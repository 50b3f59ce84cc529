"""How commands end: exit codes, and errors as text instead of tracebacks."""

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from server.client.errors import ClientError, NotThere

FAILED, WRONG_USE, NO_SERVICE, STOPPED = 1, 2, 3, 130
"""Exit codes: the service refused or something failed; what was typed, or the settings; no llm-optimizer
answers; Ctrl-C, as shells have it."""


class CommandGroup(TyperGroup):
    """All commands; what they raise for the user becomes a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with told():
            return super().invoke(ctx)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors of the client end the command."""
    try:
        yield
    except NotThere as error:
        end(str(error), NO_SERVICE)
    except ClientError as error:
        end(str(error), FAILED)


def end(message: str, code: int) -> NoReturn:
    """Say what is wrong, and end."""
    typer.echo(f"llm-optimizer: {message}", err=True)
    raise typer.Exit(code)
