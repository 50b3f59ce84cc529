"""``serve``: the service itself."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands.configured import settings_of
from server.commands.failing import FAILED, end

if TYPE_CHECKING:
    from server.config import Settings


def serve(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file with the settings; see docs/config.sample.toml."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="H", help="Address to listen on, in place of the configured ones.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", help="Port to listen on; 0 takes a free one.")
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(metavar="GGUF", help="File for the generator; its name stays as configured."),
    ] = None,
    helper: Annotated[
        Path | None, typer.Option(metavar="GGUF", help="File for the helper; its name stays as configured.")
    ] = None,
) -> None:
    """Load both models and serve them until Ctrl-C or SIGTERM.

    SIGTERM lets answers under way finish (drain_s), Ctrl-C does not. SIGHUP reads the settings again.

    Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong configuration.

    \b
    Examples:
      llm-optimizer serve
      llm-optimizer serve --config /etc/llm-optimizer.toml
      llm-optimizer serve --port 11434 --generator ~/models/qwen2.5-coder-7b.gguf
    """
    settings = settings_of(config, _model_flags(generator, helper))
    flags = {**_model_flags(generator, helper), **_listen_flag(settings, host, port)}
    settings = settings_of(config, flags)
    from server.config import load_settings
    from server.logs import set_up_logging

    # llama.cpp comes with it.
    from server.serve import CannotServe
    from server.serve import serve as run

    set_up_logging(settings.log_level, settings.log_format)
    try:
        run(settings, typer.echo, lambda: load_settings(config, os.environ, flags))
    except CannotServe as error:
        end(str(error), FAILED)


def _model_flags(generator: Path | None, helper: Path | None) -> dict[str, Any]:
    from server.config import FlagValue

    given = {"generator": generator, "helper": helper}
    return {
        role: {"path": FlagValue(str(path.absolute()), f"--{role}")}
        for role, path in given.items()
        if path is not None
    }


def _listen_flag(settings: "Settings", host: str | None, port: int | None) -> Mapping[str, Any]:
    """One address from the flags; what a flag leaves open comes from the first configured address."""
    from server.config import FlagValue

    if host is None and port is None:
        return {}
    configured_host, configured_port = settings.addresses[0]
    chosen = configured_host if host is None else host
    bracketed = f"[{chosen}]" if ":" in chosen and not chosen.startswith("[") else chosen
    address = f"{bracketed}:{configured_port if port is None else port}"
    flag = " ".join(name for name, value in (("--host", host), ("--port", port)) if value is not None)
    return {"listen": FlagValue([address], flag)}
