"""GGUF files: what they say of themselves, and what tells them apart."""

import datetime
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.chat.template import CHATML, supports_thinking, supports_tools
from server.engine.gguf.header import GgufHeader
from server.engine.gguf.reader import read_header
from server.engine.gguf.values import LazyArray

_FINGERPRINT_SAMPLES, _SAMPLE_BYTES = 16, 65_536
_PIECE_BYTES = 2**22
_INFILL_TOKENS = tuple(
    token.encode()
    for token in (
        *("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<PRE>", "▁<PRE>", "<|code_prefix|>"),
        *("<｜fim▁begin｜>", "<|fim▁begin|>"),  # DeepSeek's bars are wide
    )
)
"""As llama.cpp looks for them where the header names none."""
_PROJECTOR = "clip"
"""The architecture of the part that turns images into tokens: it lies beside models, and is none."""


@dataclass(frozen=True)
class ModelFile:
    """A GGUF that is there."""

    header: GgufHeader
    fingerprint: str
    """64 hexadecimal digits that tell this file from others: of its size, its header and samples of it."""
    modified_at: datetime.datetime

    @property
    def template(self) -> str:
        """The chat template's source."""
        return self.header.chat_template or CHATML

    @property
    def is_model(self) -> bool:
        """Whether it can be served by itself."""
        return self.header.architecture != _PROJECTOR

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


class Files:
    """Reads a file's header once, and again when the file changes. Any thread may call."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[_FileState, ModelFile]] = {}

    def read(self, path: Path) -> ModelFile:
        """What the file says of itself.

        Raises:
            ModelLoadFailed: it is missing, truncated or no GGUF.
        """
        return self.glance(path) or self._read(path)

    def glance(self, path: Path) -> ModelFile | None:
        """What is known of the file without reading it; None if it has not been read, or has changed."""
        seen = self._seen.get(path)
        try:
            return seen[1] if seen is not None and seen[0] == _state_of(path) else None
        except OSError:
            return None

    def _read(self, path: Path) -> ModelFile:
        try:
            state = _state_of(path)
        except OSError:
            read_header(path)  # says what is wrong with the file, better than the OSError does
            raise
        header = read_header(path)
        modified_at = datetime.datetime.fromtimestamp(state.modified_ns / 1e9).astimezone()
        file = ModelFile(header, _fingerprint(path, header), modified_at)
        self._seen[path] = (state, file)
        return file


def sha256_of(path: Path, tell: Callable[[int], None] = lambda size_bytes: None) -> str:
    """The digest of the whole file, 64 hexadecimal digits. Takes seconds for each gigabyte.

    ``tell`` is called with the bytes read so far; what it raises ends the reading.
    """
    digest, done_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            done_bytes += len(piece)
            tell(done_bytes)
    return digest.hexdigest()


def _state_of(path: Path) -> _FileState:
    status = path.stat()
    return _FileState(status.st_mtime_ns, status.st_size)


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
