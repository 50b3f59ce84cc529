"""From all sources to one checked settings tree."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from server.config.devices import begins_with_a_device
from server.config.errors import ConfigError
from server.config.model_settings import ModelSettings
from server.config.ollama import from_ollama
from server.config.options import OPTIONS
from server.config.settings import Settings
from server.config.sources import Given, Layer, Origin, from_defaults, from_environment, from_file, from_flags


def load_settings(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """The settings of defaults, Ollama's variables, file, environment and flags; the later ones win.

    ``flags`` is nested like the tree; a value may be a ``FlagValue``, and None is not given.
    Every path in the result is absolute. Raises ConfigError.
    """
    layers = (
        from_defaults(),
        from_ollama(environ),
        from_file(file) if file else Layer(),
        from_environment(environ),
        from_flags(flags),
    )
    given = _with_first_devices({key: entry for layer in layers for key, entry in layer.given.items()})
    faults = [fault for layer in layers for fault in layer.faults]
    try:
        settings = Settings.model_validate(_nested(given))
    except ValidationError as error:
        faults += [_fault(detail, given) for detail in error.errors(include_url=False)]
        raise ConfigError(*dict.fromkeys(faults)) from None
    if faults:
        raise ConfigError(*faults)
    return _with_origins(_with_absolute_paths(settings, given, file, environ), given)


def _with_first_devices(given: Mapping[str, Given]) -> dict[str, Given]:
    """A ``device`` that nobody has set is the first of the ``devices`` that somebody has."""
    first = {
        key: replace(several, name=several.name.removesuffix("s"), value=several.value[0])
        for key, entry in given.items()
        if key.endswith(".device") and entry.origin is Origin.DEFAULT
        # What is wrong with them is told of once, by their own check.
        if (several := given[f"{key}s"]) and begins_with_a_device(several.value)
    }
    return {**given, **first}


def _nested(given: Mapping[str, Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, entry in given.items():
        section, _, name = key.rpartition(".")
        target = tree.setdefault(section, {}) if section else tree
        target[name] = entry.value
    return tree


def _fault(detail: ErrorDetails, given: Mapping[str, Given]) -> str:
    place = [str(part) for part in detail["loc"]]
    reasons = detail.get("ctx", {})
    if detail["type"] == "conflict":
        key, other = (".".join([*place, reasons[name]]) for name in ("key", "other"))
        return f"{given[key]}: {reasons['rule']} {given[other]}"
    # A fault in an item of a list is a fault of the list.
    key = next(".".join(place[:length]) for length in (1, 2) if ".".join(place[:length]) in OPTIONS)
    if detail["type"] == "value_error":
        return f"{given[key]}: {reasons['error']}"
    return f"{given[key]}: must be {OPTIONS[key].allowed}"


def _with_origins(settings: Settings, given: Mapping[str, Given]) -> Settings:
    """The same settings; those of a model know which of them are no mere defaults."""
    models = {"generator": settings.generator, "helper": settings.helper}
    marked = {
        section: model.with_set(
            [
                name
                for name in type(model).model_fields
                if given[f"{section}.{name}"].origin is not Origin.DEFAULT
            ]
        )
        for section, model in models.items()
    }
    return settings.model_copy(update=marked)


def _with_absolute_paths(
    settings: Settings, given: Mapping[str, Given], file: Path | None, environ: Mapping[str, str]
) -> Settings:
    home = environ.get("HOME")
    models_dir = _own_path(settings.models_dir, given["models_dir"], file, home)
    cache_dir = _own_path(settings.cache_dir, given["cache_dir"], file, home) or _usual_cache_dir(environ)
    capture_dir = _own_path(settings.capture_dir, given["capture_dir"], file, home)
    keys_file = _own_path(settings.keys_file, given["keys_file"], file, home)
    paths = {
        "models_dir": models_dir,
        "cache_dir": cache_dir,
        "capture_dir": capture_dir,
        "keys_file": keys_file,
    }
    settings = settings.model_copy(update=paths)
    folder = settings.resolved_models_dir
    models = {
        name: _with_absolute_path(model, given[f"{name}.path"], folder, home).model_copy(
            update={
                "remote_key_file": _own_path(
                    model.remote_key_file, given[f"{name}.remote_key_file"], file, home
                )
            }
        )
        for name, model in (("generator", settings.generator), ("helper", settings.helper))
    }
    return settings.model_copy(update=models)


def _own_path(path: Path | None, entry: Given, file: Path | None, home: str | None) -> Path | None:
    if path is None:
        return None
    path = _expanded(path, entry, home)
    if entry.origin is Origin.FILE and file:
        return file.absolute().parent / path
    if entry.origin is Origin.ENVIRONMENT and not path.is_absolute():
        # A service's current directory is an accident; a flag's is where the user stands.
        raise ConfigError(f"{entry}: must be an absolute path, or begin with ~/")
    return path.absolute()


def _usual_cache_dir(environ: Mapping[str, str]) -> Path | None:
    """What systemd, the desktop or the home folder offers; None where there is nothing of the kind."""
    if folder := environ.get("CACHE_DIRECTORY"):
        return Path(folder.partition(":")[0])
    if parent := environ.get("XDG_CACHE_HOME"):
        return Path(parent, "llm-optimizer")
    home = environ.get("HOME")
    return Path(home, ".cache", "llm-optimizer") if home else None


def _with_absolute_path(model: ModelSettings, entry: Given, folder: Path, home: str | None) -> ModelSettings:
    path = _expanded(model.path, entry, home)
    absolute = path.absolute() if entry.origin is Origin.FLAGS else folder / path
    return model.model_copy(update={"path": absolute})


def _expanded(path: Path, entry: Given, home: str | None) -> Path:
    if path.parts[:1] == ("~",):
        if not home:
            raise ConfigError(f"{entry}: begins with ~, but the environment variable HOME is not set")
        return Path(home, *path.parts[1:])
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{entry}: begins with the name of a user who has no home folder") from None
