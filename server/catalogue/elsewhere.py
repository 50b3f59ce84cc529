"""A model that another server runs: it has no file here, and says as much of itself as the settings do."""

import datetime
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from server.catalogue.files import ModelFile
from server.config import ModelSettings
from server.engine.gguf.header import GgufHeader

_FAMILY = "remote"


@dataclass(frozen=True)
class NoFile(ModelFile):
    """What stands in for the file: a header without tensors, and the abilities that the settings name."""

    abilities: tuple[str, ...] = ()

    @property
    def template(self) -> str:
        """The other server has it."""
        return ""

    @functools.cached_property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, in Ollama's words."""
        return ("completion", *self.abilities)


def no_file(settings: ModelSettings) -> NoFile:
    """That of a model with these settings."""
    metadata = {"general.architecture": _FAMILY, f"{_FAMILY}.context_length": settings.context}
    named = f"{settings.remote_url} {settings.remote_model or settings.name}"
    return NoFile(
        header=GgufHeader(Path(settings.remote_url), 0, 0, metadata, (), 0),
        fingerprint=hashlib.sha256(named.encode()).hexdigest(),
        modified_at=datetime.datetime.now().astimezone(),
        abilities=settings.remote_abilities,
    )
