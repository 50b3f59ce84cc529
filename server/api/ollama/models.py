"""What Ollama tells about models: ``/api/tags``, ``/api/show``, ``/api/ps``."""

import datetime
import json
from collections.abc import Iterator
from typing import Any

from server.api.figures import reduced, split_of
from server.api.ollama.wire import ShowBody
from server.catalogue import Installed, Recipe
from server.config import ModelSettings
from server.engine.gguf.values import LazyArray
from server.service.berths import Arriving, Resident
from server.service.elsewhere import Distant

FOR_EVER = datetime.timedelta(days=292 * 365)
"""A date centuries away that every client can still read."""

LONG_ARRAY = 5
PARAMETER_COLUMNS = 30


def tag(model: Installed) -> dict[str, Any]:
    """An item of ``/api/tags``."""
    name = model.entry.name.display
    return {
        "name": name,
        "model": name,
        "modified_at": model.modified_at.isoformat(),
        "size": model.header.size_bytes,
        "digest": model.digest,
        "details": details(model),
        "capabilities": list(model.capabilities),
        **_elsewhere(model.entry.settings),
    }


def _elsewhere(settings: ModelSettings) -> dict[str, Any]:
    """Where a model runs that runs elsewhere, in Ollama's words for such."""
    if not settings.is_elsewhere:
        return {}
    return {"remote_model": settings.remote_model or settings.name, "remote_host": settings.remote_url}


def details(model: Installed) -> dict[str, Any]:
    """The block of that name, shared by all three."""
    family = model.header.architecture or "unknown"
    return {
        "parent_model": _parent(model),
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": _size_in_words(model.header.parameter_count),
        "quantization_level": model.header.file_type_name,
        "context_length": model.window_tokens,
        "embedding_length": model.header.embedding_length,
    }


def _parent(model: Installed) -> str:
    """The configured model whose weights an alias takes."""
    record = model.entry.record
    return record.base or "" if record is not None else ""


def resident(model: Resident) -> dict[str, Any]:
    """An item of ``/api/ps``; ``state``, ``device``, ``reduced``, ``split`` and ``slots`` are ours."""
    expires_at = model.expires_at or datetime.datetime.now(datetime.UTC) + FOR_EVER
    return {
        **_named(model.installed),
        "size": model.placement.size_bytes,
        "size_vram": model.placement.vram_bytes,
        "expires_at": expires_at.astimezone().isoformat(),
        "context_length": model.state.context_tokens,
        "state": "loaded",
        "reduced": reduced(model.placement),
        **({"split": parts} if (parts := split_of(model.placement)) else {}),
        "slots": {
            "total": model.state.slots,
            "running": model.state.running,
            "queued": model.state.queued,
            "cells_in_use": model.state.cells_in_use,
        },
    }


def arriving(model: Arriving) -> dict[str, Any]:
    """The same for a model that is being loaded; ``loaded_part`` is from 0 to 1."""
    slots = {"total": model.installed.entry.settings.slots, "running": 0, "queued": model.waiting}
    return {
        **_named(model.installed),
        "size": model.installed.header.size_bytes,
        "size_vram": 0,
        "expires_at": (datetime.datetime.now(datetime.UTC) + FOR_EVER).astimezone().isoformat(),
        "context_length": model.installed.window_tokens,
        "state": "loading",
        "loaded_part": round(model.part, 3),
        "slots": {**slots, "cells_in_use": 0},
    }


def distant(model: Distant) -> dict[str, Any]:
    """The same for a model that another server runs; ``fault`` says why it cannot be had."""
    state = model.state
    return {
        **_named(model.installed),
        **_elsewhere(model.installed.entry.settings),
        "size": 0,
        "size_vram": 0,
        "expires_at": (datetime.datetime.now(datetime.UTC) + FOR_EVER).astimezone().isoformat(),
        "context_length": model.spec.context_tokens,
        "state": "remote",
        "fault": state.fault,
        "slots": {
            "total": model.spec.slots,
            "running": state.running,
            "queued": state.queued,
            "cells_in_use": 0,
        },
    }


def _named(model: Installed) -> dict[str, Any]:
    name = model.entry.name.display
    return {
        "name": name,
        "model": name,
        "digest": model.digest,
        "details": details(model),
        "device": model.entry.settings.where,
    }


def show(model: Installed, wanted: ShowBody) -> dict[str, Any]:
    """The answer of ``/api/show``."""
    own = model.entry.recipe
    recipe = own.model_copy(update={"system": wanted.system or own.system})
    parameters = {**recipe.parameters.given, "num_ctx": model.window_tokens, **wanted.options}
    licenses = recipe.license or tuple(filter(None, (model.header.license,)))
    told = {
        "license": "\n".join(licenses),
        "system": recipe.system,
        "messages": [example.model_dump() for example in recipe.messages],
        "tensors": _tensors(model),
    }
    return {
        "modelfile": _modelfile(model, recipe, parameters),
        "parameters": _parameter_lines(parameters),
        "template": model.shown_template,
        "details": details(model),
        "model_info": model_info(model, verbose=wanted.verbose),
        "capabilities": list(model.capabilities),
        **_elsewhere(model.entry.settings),
        "modified_at": model.modified_at.isoformat(),
        **{name: value for name, value in told.items() if value},
    }


def _tensors(model: Installed) -> list[dict[str, Any]]:
    return [
        {"name": tensor.name, "type": tensor.type_name, "shape": list(tensor.shape)}
        for tensor in model.header.tensors
    ]


def model_info(model: Installed, *, verbose: bool) -> dict[str, Any]:
    """The GGUF's metadata as it stands, long arrays left out unless ``verbose``; only the context length is
    what a request gets: clients take it for how much they may send."""
    left_out = ("general.name", "tokenizer.chat_template")
    window = f"{model.header.architecture}.context_length"
    info: dict[str, Any] = {
        key: _plain(value, verbose=verbose)
        for key, value in model.header.metadata.items()
        if key not in left_out
    }
    served = {window: model.window_tokens} if window in info else {}
    return {**info, **served, "general.parameter_count": model.header.parameter_count}


def _plain(value: Any, *, verbose: bool) -> Any:
    if isinstance(value, LazyArray):
        return list(value.decode()) if verbose else None
    if isinstance(value, tuple):
        return list(value) if verbose or len(value) <= LONG_ARRAY else None
    return value


def _size_in_words(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            digits = f"{count / size:.1f}" if unit == "B" else f"{count / size:.0f}"
            return f"{digits}{unit}"
    return str(count)


def _parameter_lines(parameters: dict[str, Any]) -> str:
    return "\n".join(f"{name.ljust(PARAMETER_COLUMNS)} {value}" for name, value in _values(parameters))


def _modelfile(model: Installed, recipe: Recipe, parameters: dict[str, Any]) -> str:
    lines = [
        f"FROM {model.header.path.name}",
        *(f"PARAMETER {name} {value}" for name, value in _values(parameters)),
        *((f"SYSTEM {_quoted(recipe.system)}",) if recipe.system else ()),
        *(f"MESSAGE {example.role} {_quoted(example.content)}" for example in recipe.messages),
        *(f"LICENSE {_quoted(text)}" for text in recipe.license),
    ]
    return "\n".join((*lines, ""))


def _values(parameters: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values as Go writes them, an item of a list each by itself."""
    for name, value in parameters.items():
        for item in value if isinstance(value, list) else (value,):
            whole = isinstance(item, float) and item.is_integer()
            yield name, json.dumps(int(item) if whole else item, ensure_ascii=False)


def _quoted(text: str) -> str:
    return f'"""{text}"""'
