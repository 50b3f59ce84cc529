"""The models that have a name here before they are: ``models/catalogue.toml``."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from server.catalogue.names import ModelName
from server.catalogue.records import Parameters, Recipe
from server.config import ConfigError

CATALOGUE = Path(__file__).resolve().parents[2] / "models" / "catalogue.toml"


class Known(BaseModel):
    """A model of the list. The hub's file is ``file``, or the one of the quantisation ``quant``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    aliases: tuple[str, ...] = ()
    purpose: str
    repository: str
    file: str | None = None
    quant: str | None = None
    size_bytes: int | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    role: str | None = None
    saved_as: str | None = None
    parameters: Parameters = Parameters()

    @model_validator(mode="after")
    def _check_file(self) -> Self:
        if (self.file is None) == (self.quant is None):
            raise ValueError("needs either file or quant")
        return self

    @property
    def model_name(self) -> ModelName:
        """``name``, parsed."""
        return ModelName.parse(self.name)

    @property
    def recipe(self) -> Recipe:
        """What its makers advise."""
        return Recipe(parameters=self.parameters)

    def answers_to(self, name: ModelName) -> bool:
        """Whether ``name`` is its name or one of its aliases."""
        return any(ModelName.parse(own).is_same_as(name) for own in (self.name, *self.aliases))


class _List(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: tuple[Known, ...] = ()


def known_models(file: Path = CATALOGUE) -> tuple[Known, ...]:
    """The list, as it stands in the repository; empty where the package came without it.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    if not file.is_file():
        return ()
    try:
        return _List.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))).model
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise ConfigError(*(f"{file}: {_place(fault)}: {fault['msg']}" for fault in faults)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None


def _place(fault: ErrorDetails) -> str:
    return ".".join(map(str, fault["loc"]))


def find_known(models: Iterable[Known], name: ModelName) -> Known | None:
    """The model of the list that answers to ``name``."""
    return next((model for model in models if model.answers_to(name)), None)
