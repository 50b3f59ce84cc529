"""A model that another server runs: it has no file here, and says as much of itself as the settings do."""

import datetime
import hashlib
from pathlib import Path

from server.catalogue.files import ModelFile
from server.config import ModelSettings
from server.engine.gguf.header import GgufHeader

_FAMILY = "remote"


class NoFile(ModelFile):
    """What stands in for the file: a header without tensors, and the abilities that the settings name."""

    def __init__(self, settings: ModelSettings) -> None:
        metadata = {"general.architecture": _FAMILY, f"{_FAMILY}.context_length": settings.context}
        named = f"{settings.remote_url} {settings.remote_model or settings.name}"
        super().__init__(
            header=GgufHeader(Path(settings.remote_url), 0, 0, metadata, (), 0),
            fingerprint=hashlib.sha256(named.encode()).hexdigest(),
            modified_at=datetime.datetime.now().astimezone(),
        )
        self.__dict__["capabilities"] = ("completion", *settings.remote_abilities)

    @property
    def template(self) -> str:
        """The other server has it."""
        return ""
