"""``rm``, ``cp`` and ``stop``: models that go, get another name, or leave the memory."""

from typing import Annotated

import typer

from server.client.wire import CHAT
from server.commands.completing import model_names
from server.commands.connecting import connect
from server.commands.parameters import Config, Model, Url

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL", help="Names of models.", show_default=False, autocompletion=model_names),
]


def rm(models: Models, url: Url = None, config: Config = None) -> None:
    """Remove models.

    The name goes, and the file when no other name uses it. The two models of the settings are refused: they
    would come back.

    \b
    Examples:
      llm-optimizer rm qwen3:4b
    """
    with connect(url, config) as service:
        for model in models:
            service.delete("/api/delete", {"model": model})
            typer.echo(f"{model} is removed")


def cp(
    source: Model,
    destination: Annotated[str, typer.Argument(metavar="NAME", help="The other name.", show_default=False)],
    url: Url = None,
    config: Config = None,
) -> None:
    """Give a model another name, which takes no room of its own.

    \b
    Examples:
      llm-optimizer cp qwen2.5-coder:7b gpt-4o
    """
    with connect(url, config) as service:
        service.post("/api/copy", {"source": source, "destination": destination})
    typer.echo(f"{destination} is {source}")


def stop(models: Models, url: Url = None, config: Config = None) -> None:
    """Unload models from memory.

    What they are answering is answered first; the next request loads them again.

    \b
    Examples:
      llm-optimizer stop qwen2.5-coder:7b
    """
    with connect(url, config) as service:
        for model in models:
            service.post(CHAT, {"model": model, "messages": [], "keep_alive": 0, "stream": False})
            typer.echo(f"{model} is unloaded as soon as it is idle")
