"""``show``: all about one model."""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from server.commands.connecting import connect
from server.commands.parameters import Config, Json, Model, Url
from server.commands.screen import printable
from server.commands.tables import print_json

_LONGEST_TEXT_LINES = 3


class Part(StrEnum):
    """What may be shown alone, word for word."""

    LICENSE = "license"
    MODELFILE = "modelfile"
    PARAMETERS = "parameters"
    SYSTEM = "system"
    TEMPLATE = "template"


def show(
    model: Model,
    part: Annotated[
        Part | None, typer.Option("--only", help="Print one part of it as it stands, and nothing else.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="All metadata of the file, and its tensors.")
    ] = False,
    url: Url = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what a model is, what it can and how it is set up.

    \b
    Examples:
      llm-optimizer show qwen2.5-coder:7b
      llm-optimizer show qwen2.5-coder:7b --only modelfile > Modelfile
    """
    with connect(url, config) as service:
        told = service.post("/api/show", {"model": model, "verbose": verbose})
    if as_json:
        print_json(told)
    elif part is not None:
        typer.echo(str(told.get(part, "")).rstrip("\n"))
    else:
        typer.echo("\n".join(lines_of(told, verbose=verbose)))


def lines_of(told: Mapping[str, Any], *, verbose: bool = False) -> Iterator[str]:
    """The answer of ``/api/show`` for people, a block for each subject."""
    yield from _block("Model", _figures(told))
    yield from _block("Capabilities", told["capabilities"])
    yield from _block("Parameters", told["parameters"].splitlines())
    yield from _block("System", _beginning(told.get("system", "")))
    yield from _block("License", _beginning(told.get("license", "")))
    if verbose:
        yield from _block("Metadata", (f"{name:<45} {value}" for name, value in told["model_info"].items()))
        tensors = (f"{one['name']:<35} {one['type']:<6} {one['shape']}" for one in told.get("tensors", ()))
        yield from _block("Tensors", tensors)


def _figures(told: Mapping[str, Any]) -> Iterator[str]:
    details = told["details"]
    for label, value in (
        ("architecture", details["family"]),
        ("parameters", details["parameter_size"]),
        ("quantisation", details["quantization_level"]),
        ("context", details["context_length"]),
        ("embedding length", details["embedding_length"]),
        ("takes its weights from", details["parent_model"]),
    ):
        if value:
            yield f"{label:<22} {value}"


def _beginning(text: str) -> list[str]:
    lines = text.strip().splitlines()
    more = len(lines) - _LONGEST_TEXT_LINES
    return [*lines[:_LONGEST_TEXT_LINES], f"... and {more} lines more"] if more > 0 else lines


def _block(title: str, lines: Iterable[str]) -> Iterator[str]:
    indented = [f"  {printable(line)}" for line in lines]
    if indented:
        yield title
        yield from indented
