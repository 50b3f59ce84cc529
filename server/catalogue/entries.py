"""A model as the service knows it: by its name, its settings and its file."""

import datetime
from dataclasses import dataclass, field
from enum import StrEnum

from server.catalogue.files import ModelFile
from server.catalogue.names import ModelName
from server.catalogue.records import Recipe, Record
from server.config import ModelSettings
from server.engine.gguf.header import GgufHeader

_FILLS_GAPS = (
    "{# /api/generate fills the gap between a prompt and a suffix: {{ .Prompt }} gap {{ .Suffix }} #}"
)


class Role(StrEnum):
    """What a configured model is for; also its section in the settings."""

    GENERATOR = "generator"
    HELPER = "helper"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that has a name, whether its file is there or not.

    ``role`` None: the router knows nothing of it. An alias has the role of the model whose weights it takes.
    Entries with the same ``weights`` are one model in memory.
    """

    role: Role | None
    name: ModelName
    settings: ModelSettings
    weights: str
    recipe: Recipe = field(default_factory=Recipe)
    record: Record | None = None

    @property
    def is_configured(self) -> bool:
        """Whether the settings name it."""
        return self.role is not None and self.record is None

    @property
    def section(self) -> str:
        """The section of the settings that says how it runs: further models run as the generator does."""
        return (self.role or Role.GENERATOR).value


@dataclass(frozen=True, slots=True)
class Installed:
    """A model whose file is there and is a GGUF."""

    entry: Entry
    file: ModelFile

    @property
    def header(self) -> GgufHeader:
        """What the GGUF says."""
        return self.file.header

    @property
    def digest(self) -> str:
        """64 hexadecimal digits: the file's sha256 where it is known, and its fingerprint elsewhere."""
        record = self.entry.record
        if record is not None and record.sha256 and record.size_bytes == self.header.size_bytes:
            return record.sha256
        return self.file.fingerprint

    @property
    def modified_at(self) -> datetime.datetime:
        """When it was installed or last changed."""
        record = self.entry.record
        return self.file.modified_at if record is None else record.modified_at.astimezone()

    @property
    def template(self) -> str:
        """The chat template's source."""
        return self.file.template

    @property
    def shown_template(self) -> str:
        """The template as it is told: where the model fills gaps, a comment says so in the words that
        clients look for in Ollama's own templates."""
        if "insert" not in self.capabilities:
            return self.template
        return f"{self.template}\n{_FILLS_GAPS}"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, in Ollama's words."""
        return self.file.capabilities

    @property
    def embeds(self) -> bool:
        """Whether it turns texts into vectors, and does nothing else."""
        return "embedding" in self.capabilities

    @property
    def window_tokens(self) -> int:
        """The window that a request gets without asking: what the settings say, within what was trained."""
        configured = self.entry.settings.context
        return min(configured, self.header.context_length or configured)
