"""What shells complete: names of models, asked of the service that runs, quickly and in silence."""

import contextlib
import io
import os
from collections.abc import MutableMapping

import typer

PATIENCE_S = 0.5
_BASH = "complete_bash"


def model_names(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Models whose names begin like that; none where no service answers."""
    from server.client.errors import ClientError
    from server.commands.connecting import service_at

    # Settings that are wrong are none of a shell's business.
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, contextlib.suppress(ClientError, typer.Exit, KeyError, TypeError):
        with service_at(ctx.params.get("url"), ctx.params.get("config"), PATIENCE_S) as service:
            found = [name for name in service.names() if name.startswith(incomplete)]
        return [_what_bash_lacks(name, incomplete) for name in found]
    return []


def join_at_colons(environ: MutableMapping[str, str]) -> None:
    """Bash takes colons for the ends of words, and all models have one in their names: put together what
    belongs together. The words are the lines of COMP_WORDS; COMP_CWORD is the number of the one at hand."""
    if not any(name.endswith("_COMPLETE") and value == _BASH for name, value in environ.items()):
        return
    words = environ.get("COMP_WORDS", "").split("\n")
    number = int(environ.get("COMP_CWORD", "0"))
    joined, place = _joined(words, number)
    environ["COMP_WORDS"], environ["COMP_CWORD"] = "\n".join(joined), str(place)


def _joined(words: list[str], number: int) -> tuple[list[str], int]:
    joined: list[str] = []
    place = 0
    for at, word in enumerate(words):
        if joined and at > 1 and (word == ":" or joined[-1].endswith(":")):
            joined[-1] += word
        else:
            joined.append(word)
        if at == number:
            place = len(joined) - 1
    return joined, place


def _what_bash_lacks(name: str, incomplete: str) -> str:
    """It replaces what stands behind the last colon only."""
    is_bash = any(key.endswith("_COMPLETE") and value == _BASH for key, value in os.environ.items())
    return name[incomplete.rfind(":") + 1 :] if is_bash else name
