"""What shells complete: names of models, asked of the service that runs, quickly and in silence."""

import contextlib
import io
from collections.abc import Iterator, MutableMapping

import typer

PATIENCE_S = 0.5
VARIABLE, BASH = "_LLM_OPTIMIZER_COMPLETE", "complete_bash"


def model_names(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Models whose names begin like that; none where no service answers."""
    from server.client.errors import ClientError
    from server.commands.connecting import service_at

    # Settings that are wrong are none of a shell's business.
    with (
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(ClientError, typer.Exit, KeyError, TypeError),
        service_at(ctx.params.get("url"), ctx.params.get("config"), PATIENCE_S) as service,
    ):
        return [name for name in service.names() if name.startswith(incomplete)]
    return []


@contextlib.contextmanager
def whole_names_in_bash(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Bash takes colons for the ends of words, and all models have one in their names: while it asks for
    completions, put together what belongs together, and answer with what stands behind the last colon.

    The words are the lines of COMP_WORDS; COMP_CWORD is the number of the one to be completed.
    """
    if environ.get(VARIABLE) != BASH:
        yield
        return
    words, number = joined(environ["COMP_WORDS"].split("\n"), int(environ["COMP_CWORD"]))
    environ["COMP_WORDS"], environ["COMP_CWORD"] = "\n".join(words), str(number)
    word = words[number] if number < len(words) else ""
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            yield
    finally:
        for line in told.getvalue().splitlines():
            typer.echo(line.removeprefix(word[: word.rfind(":") + 1]))


def joined(words: list[str], number: int) -> tuple[list[str], int]:
    """The words with those in one that a colon has parted, and the new number of the one at ``number``."""
    whole: list[str] = []
    place = 0
    for at, word in enumerate(words):
        # An option's value may begin with a colon: --url :9000.
        if whole and not whole[-1].startswith("-") and (word == ":" or whole[-1].endswith(":")):
            whole[-1] += word
        else:
            whole.append(word)
        if at == number:
            place = len(whole) - 1
    return whole, place
