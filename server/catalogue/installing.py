"""From a name to a model that is installed: what a pull does, within the service and without one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.catalogue.catalogue import Catalogue
from server.catalogue.download import download
from server.catalogue.entries import Entry
from server.catalogue.faults import HubUnreachable
from server.catalogue.files import sha256_of
from server.catalogue.hub import HOSTS, HubFile, Source, find_file, source_of
from server.catalogue.known import find_known
from server.catalogue.names import ModelName
from server.domain.errors import InvalidRequest, ModelNotFound

logger = logging.getLogger("llm-optimizer")


@dataclass(frozen=True, slots=True)
class Progress:
    """A line about work under way: ``digest`` is of the file that ``completed_bytes`` of ``total_bytes``
    are here of; without one they are bytes that were read."""

    status: str
    digest: str = ""
    total_bytes: int = 0
    completed_bytes: int = 0


VERIFYING = "verifying sha256 digest"

Tell = Callable[[Progress], None]
"""Is told every step; what it raises ends the work."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be installed: under ``name``, and if the request used another one, under ``asked`` too.

    ``source`` None: nobody knows where it comes from, but it is here.
    """

    name: ModelName
    asked: ModelName
    source: Source | None


@dataclass(frozen=True, slots=True)
class Brought:
    """A file of the hub that is here now; ``former`` is what had the name before.

    ``is_new``: it was downloaded, and not there already.
    """

    file: HubFile
    path: Path
    former: Entry | None
    is_new: bool

    @property
    def outdates_weights(self) -> bool:
        """Whether a model in memory under that name would be another one."""
        record = None if self.former is None else self.former.record
        is_further = self.former is not None and self.former.role is None
        return is_further and record is not None and record.sha256 != self.file.sha256


def order_of(catalogue: Catalogue, text: str) -> Order:
    """What ``text`` asks for.

    Raises:
        InvalidRequest: it is no name, or that of a model that another server runs.
        ModelNotFound: nobody knows where such a model comes from, and it is not here.
    """
    asked = ModelName.parse(text)
    catalogue.refuse_elsewhere(asked)
    known = find_known(catalogue.known, asked)
    name = asked if known is None else known.model_name
    source = None if asked.is_remote else source_of(asked, known)
    if source is None and (asked.is_remote or catalogue.look_up(asked) is None):
        names = ", ".join(model.name for model in catalogue.known)
        raise ModelNotFound(
            text,
            f"model '{text}' not found: there is nowhere to pull it from. Known names: {names}; "
            f"others come from the hub as {HOSTS[0]}/ORG/REPO or {HOSTS[0]}/ORG/REPO:QUANT",
        )
    return Order(name, asked, source)


def bring(catalogue: Catalogue, order: Order, asked: Sequence[ModelName], tell: Tell) -> Brought | None:
    """Download the file, or find that it is here; None where what is installed has to do. Blocks.

    ``asked`` are all names that it is wanted under.

    Raises:
        ServiceError: it cannot be had, or another file is in its place.
    """
    tell(Progress("pulling manifest"))
    entry = catalogue.look_up(order.name)
    here = entry.settings.path if entry is not None and entry.settings.path.is_file() else None
    file = _find(catalogue, order, asked, tell, installed=here is not None)
    if file is None:
        return None
    if entry is not None and here is not None and _is_same(here, file, entry, tell):
        tell(_layer(file, file.size_bytes))
        return Brought(file, here, entry, is_new=False)
    _refuse_to_replace(entry, here)
    target = catalogue.path_for(order.name, file.sha256)
    download(
        file,
        target,
        lambda here_bytes: tell(_layer(file, here_bytes)),
        lambda done_bytes: tell(_verifying(file, done_bytes)),
    )
    return Brought(file, target, entry, is_new=True)


def enter(catalogue: Catalogue, order: Order, asked: Sequence[ModelName], brought: Brought) -> None:
    """Keep the records of what was brought. May take seconds.

    Raises:
        ServiceError: the folder of the models cannot be written.
    """
    if brought.former is None or not brought.former.is_configured:
        catalogue.add(
            catalogue.record_of_file(
                order.name,
                brought.path,
                str(brought.file),
                recipe=catalogue.recipe_of(order.name),
                sha256=brought.file.sha256,
            )
        )
    installed = catalogue.find(order.name.display)
    for other in asked:
        if not other.is_same_as(order.name):
            catalogue.add(catalogue.record_over(installed, other, installed.recipe, str(brought.file)))


def _find(
    catalogue: Catalogue, order: Order, asked: Sequence[ModelName], tell: Tell, *, installed: bool
) -> HubFile | None:
    """The hub's file; None where what is installed has to do."""
    if order.source is None:
        return None
    try:
        return find_file(order.source)
    except HubUnreachable as error:
        if not installed or any(catalogue.look_up(name) is None for name in asked):
            raise
        logger.warning("pull of %s: %s", order.name.display, error)
        tell(Progress("the hub cannot be reached; keeping what is installed"))
        return None


def _is_same(here: Path, file: HubFile, entry: Entry, tell: Tell) -> bool:
    """Whether the installed file is the hub's; reads all of it where no record has its digest."""
    if here.stat().st_size != file.size_bytes:
        return False
    if entry.record is not None and entry.record.sha256 is not None:
        return entry.record.sha256 == file.sha256
    tell(_verifying(file, 0))
    return sha256_of(here, lambda done_bytes: tell(_verifying(file, done_bytes))) == file.sha256


def _refuse_to_replace(entry: Entry | None, here: Path | None) -> None:
    if entry is not None and entry.is_configured and here is not None:
        raise InvalidRequest(
            f"{entry.section}.path = {here} is another file than the hub's; "
            f"delete it first, or let {entry.section}.path name a file that is not there yet"
        )


def _layer(file: HubFile, here_bytes: int) -> Progress:
    digest = f"sha256:{file.sha256}"
    return Progress(f"pulling {file.sha256[:12]}", digest, file.size_bytes, here_bytes)


def _verifying(file: HubFile, done_bytes: int) -> Progress:
    return Progress(VERIFYING, total_bytes=file.size_bytes, completed_bytes=done_bytes)
