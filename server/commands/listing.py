"""``list``: the models that are here."""

from collections.abc import Mapping
from typing import Any

from server.commands.connecting import connect
from server.commands.parameters import Config, Json, Url
from server.commands.tables import ago, now, print_json, print_table, size


def list_models(url: Url = None, config: Config = None, as_json: Json = False) -> None:
    """List the models that are here, loaded or not.

    \b
    Examples:
      llm-optimizer list
      llm-optimizer list --json | jq -r '.models[].name'
    """
    with connect(url, config) as service:
        told = service.get("/api/tags")
    if as_json:
        print_json(told)
        return
    print_table(
        ("name", "size", "parameters", "quantisation", "context", "can", "modified"),
        [_row(model) for model in told["models"]],
        right=("size", "parameters", "context"),
    )


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    details = model["details"]
    return (
        model["name"],
        size(model["size"]),
        details["parameter_size"],
        details["quantization_level"] or "-",
        str(details["context_length"]),
        ", ".join(model["capabilities"]),
        ago(model["modified_at"], now()),
    )
