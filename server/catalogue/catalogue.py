"""Which models there are: those of the settings, those of the records, and files that simply lie there."""

import datetime
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.catalogue.elsewhere import no_file
from server.catalogue.entries import Entry, Installed, Role
from server.catalogue.files import Files, ModelFile, sha256_of
from server.catalogue.known import Known, find_known, known_models
from server.catalogue.names import ModelName, name_of_file
from server.catalogue.records import CannotWrite, Recipe, Record, Records
from server.config import ModelSettings, Settings
from server.domain.errors import InvalidRequest, ModelLoadFailed, ModelNotFound

logger = logging.getLogger("llm-optimizer")

_SMALLEST_WINDOW_TOKENS = 256


class Catalogue:
    """All models. Reading is for any thread, changing for one at a time."""

    def __init__(self, settings: Settings) -> None:
        self.models_dir = settings.resolved_models_dir
        self.known = known_models()
        self._generator = settings.generator
        self._most_tokens = settings.router.max_ctx_size
        self._keep_alive = settings.keep_alive
        self.configured = tuple(
            _configured_entry(role, model, self.known)
            for role, model in ((Role.GENERATOR, settings.generator), (Role.HELPER, settings.helper))
        )
        self._elsewhere = {
            entry.weights: no_file(entry.settings) for entry in self.configured if entry.settings.is_elsewhere
        }
        self._files = Files()
        self._records = Records(self.models_dir)
        self._told: set[Path] = set()
        self._tell_of_hidden_records()

    def read_again(self, settings: Settings) -> Callable[[], None]:
        """Read the list of known models once more; calling what is returned makes it count, together with
        those of the settings that need no loading: policies, keep_alive and max_ctx_size.

        Raises:
            ConfigError: the list is wrong.
        """
        known = known_models()
        policies = {Role.GENERATOR: settings.generator.policy, Role.HELPER: settings.helper.policy}
        configured = tuple(
            _configured_entry(entry.role, _with_policy(entry.settings, policies[entry.role]), known)
            for entry in self.configured
            if entry.role is not None
        )

        def apply() -> None:
            self.known, self.configured = known, configured
            self._keep_alive, self._most_tokens = settings.keep_alive, settings.router.max_ctx_size

        return apply

    @property
    def configured_here(self) -> tuple[Entry, ...]:
        """The configured models that no other server runs."""
        return tuple(entry for entry in self.configured if not entry.settings.is_elsewhere)

    def find(self, name: str) -> Entry:
        """The model that a client's ``name`` means.

        Raises:
            ModelNotFound: no model has this name.
            InvalidRequest: it is no name.
        """
        found = self.look_up(ModelName.parse(name))
        if found is None:
            raise ModelNotFound(name)
        return found

    def look_up(self, name: ModelName) -> Entry | None:
        """The model of that name, whether its file is there or not."""
        configured = self._configured(name)
        if configured is not None:
            return configured
        record = self._records.find(name)
        if record is not None:
            return self._recorded_entry(record)
        return next((entry for entry in self._lying_there() if entry.name.is_same_as(name)), None)

    def of(self, role: Role) -> Entry:
        """The configured model of a role."""
        return next(entry for entry in self.configured if entry.role is role)

    def in_memory(self, entry: Entry) -> Entry:
        """As what a model is loaded: an alias of a configured model bears that one's name there."""
        base = next((base for base in self.configured if base.weights == entry.weights), entry)
        return replace(base, settings=entry.settings)

    def entries(self) -> tuple[Entry, ...]:
        """All models, the configured ones first."""
        return (*self.configured, *self._recorded(), *self._lying_there())

    def inspect(self, entry: Entry) -> Installed:
        """Read what the model's file says of itself.

        Raises:
            ModelLoadFailed: it is missing, truncated or no GGUF.
        """
        elsewhere = self._elsewhere.get(entry.weights)
        return Installed(entry, elsewhere or self._files.read(entry.settings.path))

    def glance(self, entry: Entry) -> Installed | None:
        """The same without reading the file; None if it has not been read yet, or has changed."""
        file = self._elsewhere.get(entry.weights) or self._files.glance(entry.settings.path)
        return None if file is None else Installed(entry, file)

    def read_file(self, path: Path) -> ModelFile:
        """The same of a file that is no model's yet."""
        return self._files.read(path)

    def installed(self) -> tuple[Installed, ...]:
        """All models whose files can be read, the newest first."""
        found = []
        for entry in self.entries():
            try:
                model = self.inspect(entry)
            except ModelLoadFailed:
                continue
            if model.file.is_model:
                found.append(model)
        return tuple(sorted(found, key=lambda model: model.modified_at, reverse=True))

    def recipe_of(self, name: ModelName) -> Recipe:
        """What the list of known models advises for ``name``."""
        return _recipe_of(name, self.known)

    def path_for(self, name: ModelName, sha256: str) -> Path:
        """Where weights go that are to be installed: a configured model's where its settings say.

        A file that another model uses as well is not written over.

        Raises:
            CannotWrite: naming the setting.
        """
        entry = self._configured(name)
        if entry is not None:
            return entry.settings.path
        try:
            self.models_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotWrite(self.models_dir, error) from error
        plain = self.models_dir / f"{name.file_stem}.gguf"
        others = (record for record in self._records if not record.model_name.is_same_as(name))
        shared = any(record.file == plain.name for record in others)
        return plain.with_stem(f"{plain.stem}~{sha256[:12]}") if shared else plain

    def add(self, record: Record) -> Entry:
        """Keep a model, in place of one of the same name, whose file goes if nothing else uses it.

        Raises:
            InvalidRequest: the settings have a model of that name.
            CannotWrite: naming the setting.
        """
        self.refuse_configured(record.model_name)
        former = self._records.find(record.model_name)
        self._records.save(record)
        if former is not None:
            self._remove_file_unless_used(former)
        return self._recorded_entry(record) or self.find(record.name)

    def record_over(self, entry: Entry, name: ModelName, recipe: Recipe, source: str) -> Record:
        """The record of another name over the weights of ``entry``. May take seconds: a file that nobody
        has named is given its own record first, with its digest.

        Raises:
            ModelLoadFailed: the file is not there.
            CannotWrite: naming the setting.
        """
        if entry.record is None and entry.role is None:
            entry = self.add(self.record_of_file(entry.name, entry.settings.path, "found in models_dir"))
        weights: dict[str, Any] = (
            {"base": entry.name.display}
            if entry.record is None
            else entry.record.model_dump(include={"base", "file", "sha256", "size_bytes"}, exclude_none=True)
        )
        return Record(name=name.display, source=source, modified_at=_now(), **weights, **_fields_of(recipe))

    def record_of_file(
        self,
        name: ModelName,
        path: Path,
        source: str,
        *,
        recipe: Recipe = Recipe(),  # noqa: B008  # frozen
        sha256: str | None = None,
    ) -> Record:
        """The record of a file in the folder of the models. Reads all of it if its digest is not given."""
        return Record(
            name=name.display,
            file=path.name,
            sha256=sha256 or sha256_of(path),
            size_bytes=path.stat().st_size,
            source=source,
            modified_at=_now(),
            **_fields_of(recipe),
        )

    def remove(self, entry: Entry) -> None:
        """Forget a model, and remove its file if nothing else uses it.

        Raises:
            InvalidRequest: it is one of the settings' own.
            CannotWrite: naming the setting.
        """
        self.refuse_configured(entry.name)
        if entry.record is not None:
            self._records.remove(entry.record)
            self._remove_file_unless_used(entry.record)
        else:
            self._unlink(entry.settings.path)

    def refuse_configured(self, name: ModelName) -> None:
        """Raise InvalidRequest for the name of a model of the settings."""
        entry = self._configured(name)
        if entry is not None:
            raise InvalidRequest(
                f'"{name.display}" is the {entry.section} of the settings and would come back: '
                f"change {entry.section}.name and {entry.section}.path there instead"
            )

    def refuse_elsewhere(self, name: ModelName) -> None:
        """Raise InvalidRequest for the name of a model that another server runs: its file is there."""
        entry = self._configured(name)
        if entry is not None and entry.settings.is_elsewhere:
            raise InvalidRequest(
                f'"{name.display}" runs at {entry.settings.remote_url}: its file does not belong here. '
                f"Take {entry.section}.remote_url out of the settings to run it on this machine"
            )

    def path_of_digest(self, sha256: str) -> Path | None:
        """The file of a recorded model with that digest, if it is there."""
        files = (
            self.models_dir / record.file
            for record in self._records
            if record.sha256 == sha256 and record.file
        )
        return next((path for path in files if path.is_file()), None)

    def _configured(self, name: ModelName) -> Entry | None:
        """The model of the settings that has this name."""
        return next((entry for entry in self.configured if entry.name.is_same_as(name)), None)

    def _recorded(self) -> Iterator[Entry]:
        for record in self._records:
            if self._configured(record.model_name) is None:
                entry = self._recorded_entry(record)
                if entry is not None:
                    yield entry

    def _recorded_entry(self, record: Record) -> Entry | None:
        if record.file is not None:
            return self._entry_of_file(record.model_name, self.models_dir / record.file, record)
        base = self._base_of(record)
        if base is None:
            return None
        window = max(base.settings.context, min(record.parameters.num_ctx or 0, self._most_tokens))
        settings = base.settings.model_copy(update={"name": record.name, "context": window})
        own = {"context"} if record.parameters.num_ctx else set()
        settings = settings.with_set(base.settings.set_by_user | own)
        return Entry(base.role, record.model_name, settings, base.weights, record.recipe, record)

    def _entry_of_file(self, name: ModelName, path: Path, record: Record | None = None) -> Entry:
        recipe = Recipe() if record is None else record.recipe
        placement = self._placement_of(path.name)
        window = recipe.parameters.num_ctx or self._generator.context
        settings = self._generator.model_copy(
            update={
                "name": name.display,
                "path": path,
                "context": max(window, _SMALLEST_WINDOW_TOKENS),
                "keep_alive": self._keep_alive,
                "preload": False,
                # Other machines' memory is lent to the model that needs it, not to whatever is pulled.
                "devices": (),
                "device_shares": (),
                **placement,
            }
        )
        # The window is the generator's unless the model has one of its own: nobody has set it for this model.
        own = {*placement, *(["context"] if recipe.parameters.num_ctx else [])}
        settings = settings.with_set((self._generator.set_by_user - {"context"}) | own)
        return Entry(None, name, settings, str(path), recipe, record)

    def _placement_of(self, file_name: str) -> dict[str, Any]:
        """Where weights run is one matter for all names over them: the first that says something counts."""
        records = (record for record in self._records if record.file == file_name)
        placements = (record.parameters.placement for record in records)
        return next((placement for placement in placements if placement), {})

    def _base_of(self, record: Record) -> Entry | None:
        if record.base is None:
            return None
        name = ModelName.parse(record.base)
        return self._configured(name)

    def _lying_there(self) -> Iterator[Entry]:
        """Files in the folder that nobody has named, under the names that their files give them."""
        used = {_real(entry.settings.path) for entry in self.configured_here}
        named = [*self.configured, *self._recorded()]
        recorded = {record.file for record in self._records}
        for path in sorted(self.models_dir.glob("*")):
            if path.suffix.casefold() != ".gguf" or path.name in recorded or _real(path) in used:
                continue
            name = name_of_file(path.name)
            if name is None or any(entry.name.is_same_as(name) for entry in named):
                self._tell_once(path, "its name is no model name, or another model has it")
                continue
            named.append(self._entry_of_file(name, path))
            yield named[-1]

    def _tell_once(self, path: Path, reason: str) -> None:
        if path not in self._told:
            self._told.add(path)
            logger.warning("%s is not served: %s", path, reason)

    def _tell_of_hidden_records(self) -> None:
        for record in self._records:
            if self._configured(record.model_name) is not None:
                logger.warning("the record of %s has no effect: the settings name such a model", record.name)
            elif record.base is not None and self._base_of(record) is None:
                logger.warning("%s is not served: no configured model is %s", record.name, record.base)

    def _remove_file_unless_used(self, record: Record) -> None:
        if record.file is None or any(other.file == record.file for other in self._records):
            return
        path = self.models_dir / record.file
        if all(_real(entry.settings.path) != _real(path) for entry in self.configured_here):
            self._unlink(path)

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(self.models_dir, error) from error


def _configured_entry(role: Role, settings: ModelSettings, known: Iterable[Known]) -> Entry:
    name = ModelName.parse(settings.name)
    return Entry(role, name, settings, role.value, _recipe_of(name, known))


def _recipe_of(name: ModelName, known: Iterable[Known]) -> Recipe:
    found = find_known(known, name)
    return Recipe() if found is None else found.recipe


def _with_policy(settings: ModelSettings, policy: str) -> ModelSettings:
    return settings.model_copy(update={"policy": policy}).with_set(settings.set_by_user)


def _real(path: Path) -> Path:
    """The file that ``path`` leads to; a link that leads in a circle leads to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


def _fields_of(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in Recipe.model_fields}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
