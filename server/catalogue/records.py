"""What is remembered of models that nobody configured: one small JSON file for each."""

import datetime
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from server.catalogue.names import ModelName
from server.domain.errors import InvalidRequest, ServiceError

logger = logging.getLogger("llm-optimizer")

FOLDER = "catalogue"
_CLOCK_TICK_NS = 20_000_000
"""Longer than any tick of a file system's clock that counts finer than seconds."""


class CannotWrite(ServiceError):
    """The folder of the models takes no files; the text names the setting."""

    def __init__(self, folder: Path, error: OSError) -> None:
        super().__init__(
            f"models_dir = {folder} cannot be written: {error.strerror or error}; "
            "let models_dir name a folder that this service may write, or give it the right to"
        )


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Number = Annotated[float, AfterValidator(_finite)]


class Parameters(BaseModel):
    """Ollama's ``PARAMETER``s: defaults for the requests to a model, in Ollama's names, and with ``num_gpu``
    and ``main_gpu`` where it runs.

    Those that nothing is done with are kept as they came, so that they can be shown.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    temperature: Number | None = None
    top_k: int | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    repeat_penalty: Number | None = None
    repeat_last_n: int | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    seed: int | None = None
    num_predict: int | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    num_gpu: int | None = None
    main_gpu: Annotated[int, Field(ge=0, le=99)] | None = None
    stop: list[str] | None = None

    @property
    def placement(self) -> dict[str, Any]:
        """Settings of a model that follow: no layers on a card means the CPU."""
        if self.num_gpu == 0:
            return {"device": "cpu"}
        device = {} if self.main_gpu is None else {"device": f"cuda:{self.main_gpu}"}
        layers = {} if self.num_gpu is None else {"gpu_layers": max(self.num_gpu, -1)}
        return {**device, **layers}

    @property
    def given(self) -> dict[str, Any]:
        """Those that have a value."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Example(BaseModel):
    """A message that stands before those of every request."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str = ""


class Recipe(BaseModel):
    """What a model adds to the requests for it, and whose terms it comes with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    parameters: Parameters = Parameters()
    system: str = ""
    messages: tuple[Example, ...] = ()
    license: tuple[str, ...] = ()

    def over(self, other: "Recipe") -> "Recipe":
        """This recipe, with the other's for what it leaves open."""
        return Recipe(
            parameters=Parameters(**{**other.parameters.given, **self.parameters.given}),
            system=self.system or other.system,
            messages=self.messages or other.messages,
            license=self.license or other.license,
        )


class Record(Recipe):
    """One model. ``base`` is the name of the configured model whose weights it takes; others have a ``file``
    of their own, relative to the folder of the models, with the ``sha256`` of all of it.
    """

    name: str
    base: str | None = None
    file: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    size_bytes: int | None = None
    source: str = ""
    modified_at: datetime.datetime

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if (self.base is None) == (self.file is None):
            raise ValueError("needs either base or file")
        if self.file is not None and not is_plain_gguf(self.file):
            raise ValueError("file must be the name of a .gguf file, without folders")
        try:
            ModelName.parse(self.name)
        except InvalidRequest:
            raise ValueError("name is no model name") from None
        return self

    @property
    def model_name(self) -> ModelName:
        """``name``, parsed."""
        return ModelName.parse(self.name)

    @property
    def recipe(self) -> Recipe:
        """The part that is about requests."""
        return Recipe(
            parameters=self.parameters, system=self.system, messages=self.messages, license=self.license
        )


def is_plain_gguf(file_name: str) -> bool:
    """Whether it names a GGUF that lies in the folder itself."""
    return Path(file_name).name == file_name and Path(file_name).suffix.casefold() == ".gguf"


class Records:
    """The records of a folder. Another program may write there as well: what it has added counts at once."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._folder = models_dir / FOLDER
        self._snapshot: _Snapshot | None = None
        self._told: set[str] = set()

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._current().values()))

    def find(self, name: ModelName) -> Record | None:
        """The record of that name."""
        return self._current().get(name.full.casefold())

    def save(self, record: Record) -> None:
        """Keep the record, in place of one of the same name; a crash leaves the old one or the new one.

        Raises:
            CannotWrite: naming the setting.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_whole(self._path(record), record.model_dump_json(indent=2, exclude_none=True) + "\n")
        except OSError as error:
            raise CannotWrite(self._models_dir, error) from error
        self._snapshot = None

    def remove(self, record: Record) -> None:
        """Forget the record.

        Raises:
            CannotWrite: naming the setting.
        """
        try:
            self._path(record).unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(self._models_dir, error) from error
        self._snapshot = None

    def _current(self) -> Mapping[str, Record]:
        changed_ns = _changed_ns(self._folder)
        snapshot = self._snapshot
        if snapshot is None or not snapshot.is_of(changed_ns):
            # The time first: what is written between the two is read, and read again.
            read_ns = time.time_ns()
            records = {_key(record): record for record in self._read_all()}
            self._snapshot = snapshot = _Snapshot(changed_ns, read_ns, records)
        return snapshot.records

    def _read_all(self) -> Iterator[Record]:
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield Record.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValidationError) as error:
                self._tell_once(f"{path} is left out: {' '.join(str(error).split())}")

    def _tell_once(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            logger.warning("%s", words)

    def _path(self, record: Record) -> Path:
        return self._folder / f"{record.model_name.file_stem}.json"


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What stood in the folder when it was read at ``read_ns``, having changed last at ``changed_ns``."""

    changed_ns: int | None
    read_ns: int
    records: Mapping[str, Record]

    def is_of(self, changed_ns: int | None) -> bool:
        """Whether nothing can have changed since. Two changes in one tick of the file system's clock leave
        the same time, so that a folder which had just changed when it was read is read once more."""
        settled = changed_ns is None or changed_ns + _CLOCK_TICK_NS < self.read_ns
        return changed_ns == self.changed_ns and settled


def _changed_ns(folder: Path) -> int | None:
    """When something came into the folder or left it; None where there is no folder."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None


def _key(record: Record) -> str:
    return record.model_name.full.casefold()


def _write_whole(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
