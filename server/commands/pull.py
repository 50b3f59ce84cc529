"""``pull``: models from the hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from server.commands.configured import settings_of, wrong_ones_end_it
from server.commands.failing import WRONG_USE, end


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
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
) -> None:
    """Download models, whether a service runs or not; it serves them at once.

    What broke off goes on where it stopped. HF_ENDPOINT names a mirror, HF_TOKEN an account.

    Exit codes: 0 all is there, 1 something is not, 2 wrong configuration, 130 stopped by Ctrl-C.

    \b
    Examples:
      llm-optimizer pull
      llm-optimizer pull qwen3:4b hf.co/unsloth/Qwen3-1.7B-GGUF:Q8_0
      llm-optimizer pull --list
    """
    if show_list and verify:
        end("--list and --verify: one of them at a time", WRONG_USE)
    if as_json and not show_list:
        end("--json goes with --list: a download and a check tell what they do while they do it", WRONG_USE)
    settings = settings_of(config, _folder_flag(folder))
    from server.pull import pull_command

    with wrong_ones_end_it():
        command = pull_command(settings)
        act = command.verify if verify else command.pull
        if show_list:
            act = command.show_as_json if as_json else command.show
        code = act(names or [])
    raise typer.Exit(code)


def _folder_flag(folder: Path | None) -> dict[str, Any]:
    from server.config import FlagValue

    return {} if folder is None else {"models_dir": FlagValue(str(folder.absolute()), "--dir")}
