"""``ps``: the models in memory."""

from collections.abc import Mapping
from typing import Any

import typer

from server.commands.connecting import connect
from server.commands.parameters import Config, Json, Url
from server.commands.tables import ago, now, print_json, print_table, size


def ps(url: Url = None, config: Config = None, as_json: Json = False) -> None:
    """Show the models in memory: where, how busy, until when.

    \b
    Examples:
      llm-optimizer ps
      llm-optimizer ps --json | jq -r '.models[].name'
    """
    with connect(url, config) as service:
        told = service.get("/api/ps")
    if as_json:
        print_json(told)
        return
    print_table(
        ("name", "device", "size", "context", "busy", "queued", "until"),
        [_row(model) for model in told["models"]],
        right=("size", "context", "busy", "queued"),
    )
    for model in told["models"]:
        _print_split(model)
        _print_what_gave_way(model)


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    slots = model["slots"]
    return (
        model["name"],
        model["device"],
        size(model["size"]),
        str(model["context_length"]),
        f"{slots['running']} of {slots['total']}",
        str(slots["queued"]),
        _until(model),
    )


def _print_split(model: Mapping[str, Any]) -> None:
    parts = ", ".join(
        f"{part['layers']} layers on {part['device']} ({size(part['bytes'])})"
        for part in model.get("split") or ()
    )
    if parts:
        typer.echo(f"{model['name']} is split: {parts}")


def _until(model: Mapping[str, Any]) -> str:
    match model["state"]:
        case "loading":
            return f"loading, {model['loaded_part']:.0%}"
        case "remote":
            return "unreachable" if model["fault"] else "remote"
        case _:
            return ago(model["expires_at"], now())


def _print_what_gave_way(model: Mapping[str, Any]) -> None:
    if model.get("fault"):
        typer.echo(f"{model['name']}: {model['fault']}")
    given_up = model.get("reduced")
    if given_up:
        changes = ", ".join(
            f"{one['setting']} {one['wished']} -> {one['planned']}" for one in given_up["settings"]
        )
        typer.echo(f"{model['name']} runs with less: {changes}; {given_up['reason']}")
