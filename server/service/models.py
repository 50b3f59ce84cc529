"""Models that come and go: created over others or of uploaded files, copied, deleted, pulled."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.catalogue import Catalogue, Entry, ModelName, Recipe
from server.catalogue.blobs import Blobs, Upload, sha256_in
from server.catalogue.installing import Progress
from server.domain.errors import InvalidRequest, ModelNotFound
from server.engine.gguf.reader import GgufError
from server.service.fleet import Fleet
from server.service.pulls import SUCCESS, Pulls


@dataclass(frozen=True, slots=True)
class Creation:
    """A model to be created: over the model ``base``, or of the uploaded ``files`` (file names to digests).

    ``template`` is only checked: the model's own one is used. ``ignored`` names what nothing is done with.
    """

    name: str
    base: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    template: str | None = None
    ignored: tuple[str, ...] = ()


class Models:
    """Changes the catalogue, one change at a time."""

    def __init__(self, catalogue: Catalogue, fleet: Fleet) -> None:
        self._catalogue = catalogue
        self._fleet = fleet
        self._changing = asyncio.Lock()
        self.pulls = Pulls(catalogue, fleet, self._changing)
        self._blobs = Blobs(catalogue.models_dir)

    def close(self) -> None:
        """Stop what takes long."""
        self.pulls.close()

    def has_blob(self, digest: str) -> bool:
        """Whether a file of that digest is here, uploaded or as a model's.

        Raises:
            InvalidRequest: it is no digest.
        """
        return self._blob(sha256_in(digest)) is not None

    def receive(self, digest: str) -> Upload:
        """A place for a file of that digest. Raises as :meth:`Blobs.receive`, and for what is no digest."""
        return self._blobs.receive(sha256_in(digest))

    async def copy(self, source: str, destination: str) -> None:
        """Give the model ``source`` another name.

        Raises:
            InvalidRequest: one of them is no name, or the settings have it.
            ModelNotFound: there is no such model.
        """
        _parsed(source, f'source "{source}" is invalid')
        name = _parsed(destination, f'destination "{destination}" is invalid')
        try:
            entry = self._catalogue.find(source)
        except ModelNotFound:
            raise ModelNotFound(source, f'model "{source}" not found') from None
        self._catalogue.refuse_configured(name)
        async with self._changing:
            await self._add_alias(entry, name, entry.recipe, f"copy of {entry.name.display}")

    async def delete(self, text: str) -> None:
        """Remove a model, and its file if nothing else uses it. A loaded one is unloaded.

        Raises:
            InvalidRequest: it is no name, or one of the settings.
            ModelNotFound: there is no such model.
        """
        _parsed(text, f'name "{text}" is invalid')
        async with self._changing:
            entry = self._catalogue.find(text)
            self._catalogue.refuse_configured(entry.name)
            if entry.role is None:
                await self._fleet.forget(entry)
            await asyncio.to_thread(self._catalogue.remove, entry)

    async def create(self, wanted: Creation) -> AsyncGenerator[Progress, None]:
        """Check the wish, and return the steps that carry it out.

        Raises:
            InvalidRequest: with what is wrong.
            ModelNotFound: there is no model of the name ``wanted.base``.
        """
        name = ModelName.parse(wanted.name)
        if name.is_remote:
            raise InvalidRequest(f'"{name.display}" would be a model that runs elsewhere: take another tag')
        self._catalogue.refuse_configured(name)
        if (wanted.base is None) == (not wanted.files):
            problem = "both 'from' and 'files' were" if wanted.files else "neither 'from' or 'files' was"
            raise InvalidRequest(f"{problem} specified")
        if wanted.base is not None:
            base = self._catalogue.find(wanted.base)
            await self._check_template(wanted, base)
            return self._create_over(name, base, wanted)
        file_name, sha256 = _only_file(wanted.files)
        path = self._blob(sha256)
        if path is None:
            raise InvalidRequest(
                f'files: "{file_name}" has not been uploaded: POST /api/blobs/sha256:{sha256}'
            )
        if wanted.template:
            raise InvalidRequest(_TEMPLATE)
        return self._create_of_file(name, file_name, sha256, wanted)

    async def _create_over(
        self, name: ModelName, base: Entry, wanted: Creation
    ) -> AsyncGenerator[Progress, None]:
        installed = await asyncio.to_thread(self._catalogue.inspect, base)
        yield Progress(f"using existing layer sha256:{installed.digest}")
        async for step in _without_effect(wanted):
            yield step
        yield Progress("writing manifest")
        async with self._changing:
            await self._add_alias(base, name, wanted.recipe.over(base.recipe), f"over {base.name.display}")
        yield SUCCESS

    async def _create_of_file(
        self, name: ModelName, file_name: str, sha256: str, wanted: Creation
    ) -> AsyncGenerator[Progress, None]:
        yield Progress("parsing GGUF")
        async with self._changing:
            target = await asyncio.to_thread(self._as_model_file, name, file_name, sha256)
            yield Progress(f"creating new layer sha256:{sha256}")
            async for step in _without_effect(wanted, but=("num_gpu", "main_gpu")):
                yield step
            yield Progress("writing manifest")
            source = f"uploaded as {file_name}"
            record = self._catalogue.record_of_file(name, target, source, recipe=wanted.recipe, sha256=sha256)
            await self._forget_former(name)
            self._catalogue.add(record)
        yield SUCCESS

    def _as_model_file(self, name: ModelName, file_name: str, sha256: str) -> Path:
        """The upload as a file of its own in the folder of the models; blocks."""
        path = self._blob(sha256)
        if path is None:
            raise InvalidRequest(f'files: "{file_name}" is gone; upload it again')
        try:
            file = self._catalogue.read_file(path)
        except GgufError as error:
            raise InvalidRequest(f'files: "{file_name}" {error.reason}') from error
        if not file.is_model:
            raise InvalidRequest(f'files: "{file_name}" is a projector for images, and no model')
        if self._catalogue.path_of_digest(sha256) == path:
            return path
        target = self._catalogue.path_for(name, sha256)
        path.replace(target)
        return target

    async def _add_alias(self, entry: Entry, name: ModelName, recipe: Recipe, source: str) -> None:
        if name.is_same_as(entry.name) and entry.record is None:
            # A file that was only lying there gets a record of its own, with what is new.
            path = entry.settings.path
            record = await asyncio.to_thread(
                self._catalogue.record_of_file, name, path, source, recipe=recipe
            )
        else:
            record = await asyncio.to_thread(self._catalogue.record_over, entry, name, recipe, source)
        await self._forget_former(name)
        self._catalogue.add(record)

    async def _forget_former(self, name: ModelName) -> None:
        former = self._catalogue.look_up(name)
        if former is not None and former.role is None:
            await self._fleet.forget(former)

    async def _check_template(self, wanted: Creation, base: Entry) -> None:
        if not wanted.template:
            return
        installed = await asyncio.to_thread(self._catalogue.inspect, base)
        if wanted.template not in (installed.template, installed.shown_template):
            raise InvalidRequest(_TEMPLATE)

    def _blob(self, sha256: str) -> Path | None:
        return self._blobs.find(sha256) or self._catalogue.path_of_digest(sha256)


_TEMPLATE = "template: only the model's own template is used; leave the field out (in a Modelfile: TEMPLATE)"


async def _without_effect(wanted: Creation, but: Sequence[str] = ()) -> AsyncGenerator[Progress, None]:
    names = [name for name in wanted.ignored if name not in but]
    if names:
        yield Progress(f"without effect here: {', '.join(names)}")


def _only_file(files: Mapping[str, str]) -> tuple[str, str]:
    if len(files) != 1:
        raise InvalidRequest(
            f"files: one GGUF makes a model, and these are {len(files)}; "
            "merge its parts, and leave projectors out"
        )
    [(file_name, digest)] = files.items()
    return file_name, sha256_in(digest)


def _parsed(text: str, complaint: str) -> ModelName:
    try:
        return ModelName.parse(text)
    except InvalidRequest:
        raise InvalidRequest(complaint) from None
