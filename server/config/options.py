"""The settings tree as a flat list, for everything that treats all options alike."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from server.config.settings import Settings

ENV_PREFIX = "LLM_OPTIMIZER_"
CLIENT_ENV_NAMES = ("LLM_OPTIMIZER_URL", "LLM_OPTIMIZER_API_KEY")
"""Variables with that prefix which are no settings: commands that talk to a service read them."""
_SHORT_ENV_NAMES = MappingProxyType(
    {
        "router.strategy_a_max": "STRATEGY_A_MAX",
        "router.strategy_b_max": "STRATEGY_B_MAX",
        "router.max_ctx_size": "MAX_CTX_SIZE",
    }
)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. ``key`` is dotted, ``env_names`` stand from the weakest to the strongest."""

    key: str
    field: FieldInfo
    default: object

    @property
    def section(self) -> str:
        """The section's name; empty for the options that stand before all sections."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The name within its section."""
        return self.key.rpartition(".")[2]

    @property
    def env_names(self) -> tuple[str, ...]:
        """The environment variables that set it."""
        long_name = ENV_PREFIX + self.key.upper().replace(".", "__")
        short_name = _SHORT_ENV_NAMES.get(self.key)
        return (short_name, long_name) if short_name else (long_name,)

    @property
    def allowed(self) -> str:
        """What its value must be, as far as its type says so: "a whole number from 1 to 64"."""
        kind = self.field.annotation
        if kind is int:
            return f"a whole number from {self._bound('ge')} to {self._bound('le')}"
        if kind is float:
            return f"a number above {self._bound('gt')} and at most {self._bound('le')}"
        if kind is bool:
            return "true or false"
        if get_origin(kind) is Literal:
            return "one of " + ", ".join(toml_text(choice) for choice in get_args(kind))
        if get_origin(kind) is tuple:
            return "a list of whole numbers" if get_args(kind)[0] is int else "a list of texts"
        return "a text"

    @property
    def is_bounded(self) -> bool:
        """Whether ``allowed`` says more than what kind of value it is."""
        return self.field.annotation in {int, float} or get_origin(self.field.annotation) is Literal

    def _bound(self, name: str) -> Any:
        return next(getattr(limit, name) for limit in self.field.metadata if hasattr(limit, name))


def _walk(section: BaseModel, prefix: str) -> Iterator[Option]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield Option(prefix + name, field, value)


OPTIONS: Mapping[str, Option] = MappingProxyType({option.key: option for option in _walk(Settings(), "")})
SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        name: field.description or ""
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, BaseModel)
    }
)
"""Each section with its description."""


def toml_text(value: object) -> str:
    """The value as it would stand in the file; what is not set is an empty text."""
    if value is None:
        return '""'
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml_text(item)}" for key, item in value.items()) + "}"
    return str(value)
