"""Which models there are: names as Ollama writes them, and the GGUF files behind them."""

import datetime
import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from server.chat.template import CHATML, supports_thinking, supports_tools
from server.config import ModelSettings, Settings
from server.domain.errors import InvalidRequest, ModelLoadFailed, ModelNotFound
from server.engine.gguf import GgufHeader, LazyArray, read_header

DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_FINGERPRINT_SAMPLES, _SAMPLE_BYTES = 16, 65_536
_INFILL_TOKENS = (b"<|fim_prefix|>", b"<fim_prefix>", b"<fim-prefix>")


@dataclass(frozen=True, slots=True)
class ModelName:
    """``[scheme://][host/][namespace/]model[:tag]`` with its defaults filled in."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Read a name as clients write it.

        Raises:
            InvalidRequest: ``invalid model name``.
        """
        plain = text.strip().partition("://")[2] or text.strip()
        # ":local" asks for what every model here is: one on this machine.
        *path, last = plain.removesuffix(":local").rsplit("/", 2)
        model, colon, tag = last.partition(":")
        namespace = path.pop() if path else DEFAULT_NAMESPACE
        host = path.pop() if path else DEFAULT_HOST
        name = cls(host, namespace, model, tag if colon else DEFAULT_TAG)
        if not name._is_well_formed():
            raise InvalidRequest("invalid model name")
        return name

    @property
    def display(self) -> str:
        """The form for lists: defaults left out, the tag always shown."""
        host = "" if self.host.casefold() == DEFAULT_HOST else f"{self.host}/"
        namespace = (
            "" if not host and self.namespace.casefold() == DEFAULT_NAMESPACE else f"{self.namespace}/"
        )
        return f"{host}{namespace}{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        """The form with everything."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    def is_same_as(self, other: "ModelName") -> bool:
        """Names differ in nothing but the case of their letters."""
        return self.full.casefold() == other.full.casefold()

    def _is_well_formed(self) -> bool:
        return bool(
            _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and _PART.fullmatch(self.model)
            and _PART.fullmatch(self.tag)
        )


class Role(StrEnum):
    """What a model is for; also its section in the settings."""

    GENERATOR = "generator"
    HELPER = "helper"


@dataclass(frozen=True, slots=True)
class Entry:
    """A configured model, whether its file is there or not."""

    role: Role
    name: ModelName
    settings: ModelSettings


@dataclass(frozen=True)
class Installed:
    """A configured model whose file is there and is a GGUF."""

    entry: Entry
    header: GgufHeader
    digest: str
    """64 hexadecimal digits that tell this file from others: of its size, its header and samples of it."""
    modified_at: datetime.datetime

    @property
    def template(self) -> str:
        """The chat template's source."""
        return self.header.chat_template or CHATML

    @functools.cached_property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, in Ollama's words. Found once: it takes a look at the whole vocabulary."""
        if self.header.pooling_type:
            return ("embedding",)
        found = {
            "completion": True,
            "tools": supports_tools(self.template),
            "insert": _knows_infill(self.header),
            "thinking": supports_thinking(self.template),
        }
        return tuple(capability for capability, present in found.items() if present)


@dataclass(frozen=True, slots=True)
class _FileState:
    modified_ns: int
    size_bytes: int


class Catalogue:
    """The configured models. Reads a file's header once, and again when the file changes."""

    def __init__(self, settings: Settings) -> None:
        self.entries: Sequence[Entry] = tuple(
            Entry(role, ModelName.parse(model.name), model)
            for role, model in ((Role.GENERATOR, settings.generator), (Role.HELPER, settings.helper))
        )
        self._seen: dict[Role, tuple[_FileState, Installed]] = {}

    def find(self, name: str) -> Entry:
        """The model that a client's ``name`` means.

        Raises:
            ModelNotFound: no model has this name.
            InvalidRequest: it is no name.
        """
        wanted = ModelName.parse(name)
        for entry in self.entries:
            if entry.name.is_same_as(wanted):
                return entry
        raise ModelNotFound(name)

    def of(self, role: Role) -> Entry:
        """The model of a role."""
        return next(entry for entry in self.entries if entry.role is role)

    def inspect(self, entry: Entry) -> Installed:
        """Read what the model's file says of itself.

        Raises:
            ModelLoadFailed: it is missing, truncated or no GGUF.
        """
        path = entry.settings.path
        try:
            status = path.stat()
        except OSError:
            read_header(path)  # says what is wrong with the file, better than the OSError does
            raise
        state = _FileState(status.st_mtime_ns, status.st_size)
        seen = self._seen.get(entry.role)
        if seen is None or seen[0] != state:
            header = read_header(path)
            modified_at = datetime.datetime.fromtimestamp(status.st_mtime).astimezone()
            installed = Installed(entry, header, _fingerprint(path, header), modified_at)
            seen = self._seen[entry.role] = (state, installed)
        return seen[1]

    def installed(self) -> tuple[Installed, ...]:
        """All models whose files can be read, the newest first."""
        found = []
        for entry in self.entries:
            try:
                found.append(self.inspect(entry))
            except ModelLoadFailed:
                continue
        return tuple(sorted(found, key=lambda model: model.modified_at, reverse=True))


def _fingerprint(path: Path, header: GgufHeader) -> str:
    """Tells files apart without reading gigabytes: size, header, and samples spread over the weights."""
    digest = hashlib.sha256(str(header.size_bytes).encode())
    step = max((header.size_bytes - header.data_offset) // _FINGERPRINT_SAMPLES, 1)
    with path.open("rb") as file:
        digest.update(file.read(header.data_offset))
        last = max(header.size_bytes - _SAMPLE_BYTES, header.data_offset)
        for start in (*range(header.data_offset, header.size_bytes, step), last):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _knows_infill(header: GgufHeader) -> bool:
    if "tokenizer.ggml.fim_pre_token_id" in header.metadata:
        return True
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, LazyArray):
        return any(token in tokens.raw for token in _INFILL_TOKENS)
    return any(token.decode() in (tokens or ()) for token in _INFILL_TOKENS)
