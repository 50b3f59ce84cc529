"""The command ``llm-optimizer``."""

import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from server import __version__
from server.config import ConfigError, FlagValue, Settings, load_settings

CANNOT_SERVE, FAULTS_FOUND, BAD_CONFIGURATION = 1, 1, 2

app = typer.Typer(
    name="llm-optimizer",
    help="One Ollama-compatible service over two unequal GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
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
    """
    settings = _settings(config, _model_flags(generator, helper))
    flags = {**_model_flags(generator, helper), **_listen_flag(settings, host, port)}
    settings = _settings(config, flags)
    # Imported late: it loads llama.cpp, which "version" and "--help" can do without.
    from server.logs import set_up_logging  # noqa: PLC0415
    from server.serve import CannotServe  # noqa: PLC0415
    from server.serve import serve as run  # noqa: PLC0415

    set_up_logging(settings.log_level, settings.log_format)
    try:
        run(settings, typer.echo, lambda: load_settings(config, os.environ, flags))
    except CannotServe as error:
        _end(str(error), CANNOT_SERVE)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with the settings, as serve has it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all model files and check their sha256; takes a while.")
    ] = False,
) -> None:
    """Look whether this machine can run the service, and say what to do where it cannot.

    Exit codes: 0 no fault (warnings may be), 1 faults, 2 wrong configuration.
    """
    settings = _settings(config, {})
    # Imported late, as serve does.
    from server.doctor.check import Status  # noqa: PLC0415
    from server.doctor.examination import examine  # noqa: PLC0415
    from server.doctor.report import as_json as json_of  # noqa: PLC0415
    from server.doctor.report import show  # noqa: PLC0415

    report = examine(settings, config, verify=verify)
    if as_json:
        typer.echo(json_of(report))
    else:
        show(report)
    if report.status is Status.FAULT:
        raise typer.Exit(FAULTS_FOUND)


@app.command()
def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="Names of models/catalogue.toml, or hf.co/ORG/REPO[:QUANT]; none: the two of the settings.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file with the settings, which say where the models lie."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="FOLDER", help="Folder, in place of models_dir.")
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="Say what there is to pull and what of it is here, and stop.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check size and sha256 of the files that are here, and stop.")
    ] = False,
) -> None:
    """Download models, whether a service runs or not; it serves them at once.

    What broke off goes on where it stopped. HF_ENDPOINT names a mirror, HF_TOKEN an account.

    Exit codes: 0 all is there, 1 something is not, 2 wrong configuration, 130 stopped by Ctrl-C.
    """
    if show_list and verify:
        _end("--list and --verify: one of them at a time", BAD_CONFIGURATION)
    settings = _settings(config, _folder_flag(folder))
    # Imported late, as in serve.
    from server.pull import pull_command  # noqa: PLC0415

    command = pull_command(settings)
    act = command.show if show_list else command.verify if verify else command.pull
    raise typer.Exit(act(names or []))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"llm-optimizer {__version__}")


def main() -> None:
    """Entry point of the installed command."""
    app()


def _settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    try:
        return load_settings(config, os.environ, flags)
    except ConfigError as error:
        _end(str(error), BAD_CONFIGURATION)


def _model_flags(generator: Path | None, helper: Path | None) -> dict[str, Any]:
    given = {"generator": generator, "helper": helper}
    return {
        role: {"path": FlagValue(str(path.absolute()), f"--{role}")}
        for role, path in given.items()
        if path is not None
    }


def _folder_flag(folder: Path | None) -> dict[str, Any]:
    return {} if folder is None else {"models_dir": FlagValue(str(folder.absolute()), "--dir")}


def _listen_flag(settings: Settings, host: str | None, port: int | None) -> dict[str, Any]:
    """One address from the flags; what a flag leaves open comes from the first configured address."""
    if host is None and port is None:
        return {}
    configured_host, configured_port = settings.addresses[0]
    chosen = configured_host if host is None else host
    bracketed = f"[{chosen}]" if ":" in chosen and not chosen.startswith("[") else chosen
    address = f"{bracketed}:{configured_port if port is None else port}"
    flag = " ".join(name for name, value in (("--host", host), ("--port", port)) if value is not None)
    return {"listen": FlagValue([address], flag)}


def _end(message: str, code: int) -> NoReturn:
    typer.echo(f"llm-optimizer: {message}", err=True)
    raise typer.Exit(code)
