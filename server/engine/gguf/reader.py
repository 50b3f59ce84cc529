"""Reads the header of a GGUF file, and checks it.

The file may come from anywhere. Whatever its bytes are, reading ends within seconds and within
some 150 MB of memory, with a header or with a ``GgufError``.
"""

import stat
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn

from server.domain.errors import ModelLoadFailed
from server.engine.gguf.header import GgufHeader, TensorInfo
from server.engine.gguf.tables import TENSOR_TYPES
from server.engine.gguf.values import ARRAY, SCALARS, STRING, U64, LazyArray, whole_number

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32

# Real models stay far below these: some 50 keys, a few thousand tensors, headers of 2 to 20 MB.
_MAX_KEYS = 4096
_MAX_TENSORS = 65_536
_MAX_DIMENSIONS = 4
_MAX_DIMENSION = 2**63 - 1
_MAX_HEADER_BYTES = 64 * 2**20
_MAX_TEXT_BYTES = 16 * 2**20
_MAX_EAGER_ELEMENTS = 512
_FIRST_READ_BYTES = 2**20
_SHOWN_CHARACTERS = 64

_U32 = struct.Struct("<I")


class GgufError(ModelLoadFailed):
    """The file is not a GGUF that can be loaded; the text names the file, the reason and the remedy."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF (versions 2 and 3, little-endian).

    Raises GgufError for whatever is not a whole, unsplit GGUF of known tensor types.
    """
    try:
        _check_is_file(path)
        with path.open("rb") as file:
            return _read(_Reader(file, path))
    except FileNotFoundError:
        raise GgufError(path, "does not exist") from None
    except (OSError, ValueError) as error:
        # pathlib raises ValueError for a path with a NUL byte in it
        reason = getattr(error, "strerror", None) or error
        raise GgufError(path, f"cannot be read: {reason}") from error


def _check_is_file(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise GgufError(path, "is a directory; give the path of a .gguf file")
    if not stat.S_ISREG(mode):
        # a pipe would be waited on for ever
        raise GgufError(path, "is not a regular file; give the path of a .gguf file")


class _Reader:
    """Walks through the header, reading ahead so that most values need no system call.

    It reads rather than maps: a mapped file that somebody cuts short kills the process.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self.path = path
        self.size_bytes = file.seek(0, 2)
        file.seek(0)
        self._buffer = bytearray()
        self.position = 0
        self._text_bytes = 0

    def fail(self, reason: str) -> NoReturn:
        raise GgufError(self.path, reason)

    def damaged(self, what: str) -> NoReturn:
        self.fail(f"is damaged: {what}; download it again")

    def start(self) -> bytes:
        """The first bytes, for a look at what the file is; the position stays."""
        self._fill(min(16, self.size_bytes))
        return bytes(self._buffer[:16])

    def take(self, count: int) -> bytes:
        self._fill(self.position + count)
        self.position += count
        return bytes(self._buffer[self.position - count : self.position])

    def u32(self) -> int:
        return int(_U32.unpack(self.take(_U32.size))[0])

    def u64(self) -> int:
        return int(U64.unpack(self.take(U64.size))[0])

    def text(self) -> str:
        length = self.u64()
        self._text_bytes += length
        # the end of the file comes first: it is the likelier cause
        self._fill(self.position + length)
        if self._text_bytes > _MAX_TEXT_BYTES:
            self.damaged(f"its header holds more than {_MAX_TEXT_BYTES} bytes of text")
        return self.take(length).decode(errors="replace")

    def strings(self, count: int) -> bytes:
        """The bytes of that many strings, lengths included."""
        self._check(self.position + count * U64.size)
        start = position = self.position
        buffer, filled = self._buffer, len(self._buffer)
        unpack_length, prefix = U64.unpack_from, U64.size
        for _ in range(count):
            if position + prefix > filled:
                self._fill(position + prefix)
                filled = len(buffer)
            position += prefix + unpack_length(buffer, position)[0]
        self.position = start
        return self.take(position - start)

    def _fill(self, end: int) -> None:
        if end <= len(self._buffer):
            return
        self._check(end)
        wanted = min(max(end, 2 * len(self._buffer), _FIRST_READ_BYTES), _MAX_HEADER_BYTES, self.size_bytes)
        self._buffer += self._file.read(wanted - len(self._buffer))
        if len(self._buffer) < end:
            self.fail("became shorter while it was read; download it again")

    def _check(self, end: int) -> None:
        if end > self.size_bytes:
            self.fail(
                f"is truncated or damaged: {self.size_bytes} bytes, but its header promises "
                f"at least {end}; download it again"
            )
        if end > _MAX_HEADER_BYTES:
            self.damaged(f"its header is longer than {_MAX_HEADER_BYTES} bytes")


def _read(reader: _Reader) -> GgufHeader:
    version = _read_version(reader)
    tensor_count = _read_count(reader, "tensors", _MAX_TENSORS)
    key_count = _read_count(reader, "keys", _MAX_KEYS)
    metadata = _read_metadata(reader, key_count)
    _check_not_split(reader, metadata)
    alignment = _alignment(reader, metadata)
    tensors, data_bytes = _read_tensors(reader, tensor_count)
    data_offset = -(-reader.position // alignment) * alignment
    if tensors:
        _check_whole(reader, data_offset + data_bytes)
    return GgufHeader(
        path=reader.path,
        size_bytes=reader.size_bytes,
        version=version,
        metadata=MappingProxyType(metadata),
        tensors=tensors,
        data_offset=data_offset,
    )


def _read_version(reader: _Reader) -> int:
    start = reader.start()
    if not start:
        reader.fail("is empty; download it again")
    if start[:4] != _MAGIC[: len(start)]:
        reader.fail(f"is not a GGUF file: it starts with {start!r}")
    reader.take(len(_MAGIC))
    version = reader.u32()
    if version not in _VERSIONS:
        if version and not version & 0xFFFF:
            reader.fail("is a big-endian GGUF; choose a little-endian one")
        reader.fail(f"is a GGUF of version {version}; versions 2 and 3 can be read")
    return version


def _read_count(reader: _Reader, what: str, limit: int) -> int:
    count = reader.u64()
    if count > limit:
        reader.damaged(f"its header promises {count} {what}")
    return count


def _read_metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text()
        value = _read_value(reader, reader.u32(), key)
        metadata.setdefault(key, value)
    return metadata


def _read_value(reader: _Reader, value_type: int, key: str) -> Any:
    if value_type == STRING:
        return reader.text()
    if value_type == ARRAY:
        return _read_array(reader, key)
    return struct.unpack(*_packed(reader, value_type, 1, key))[0]


def _read_array(reader: _Reader, key: str) -> tuple[Any, ...] | LazyArray:
    element_type = reader.u32()
    count = reader.u64()
    if element_type == STRING:
        raw = reader.strings(count)
    else:
        _, raw = _packed(reader, element_type, count, key)
    array = LazyArray(element_type, count, raw)
    return array if count > _MAX_EAGER_ELEMENTS else array.decode()


def _packed(reader: _Reader, value_type: int, count: int, key: str) -> tuple[str, bytes]:
    code = SCALARS.get(value_type)
    if code is None:
        reader.damaged(f"key '{_short(key)}' has the unknown type {value_type}")
    return f"<{count}{code}", reader.take(count * struct.calcsize(f"<{code}"))


def _check_not_split(reader: _Reader, metadata: Mapping[str, Any]) -> None:
    parts = whole_number(metadata.get("split.count"))
    if parts is not None and parts > 1:
        reader.fail(
            f"is one of {parts} parts of a split GGUF; merge them into one file first "
            "(llama-gguf-split --merge)"
        )


def _alignment(reader: _Reader, metadata: Mapping[str, Any]) -> int:
    alignment = whole_number(metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
    if not alignment or alignment & (alignment - 1):
        reader.damaged("its alignment is not a power of two")
    return alignment


def _read_tensors(reader: _Reader, count: int) -> tuple[tuple[TensorInfo, ...], int]:
    """The tensors, and how many bytes of data they reach to."""
    tensors = []
    data_bytes = 0
    for _ in range(count):
        tensor = _read_tensor(reader)
        data_bytes = max(data_bytes, reader.u64() + tensor.size_bytes)
        tensors.append(tensor)
    return tuple(tensors), data_bytes


def _read_tensor(reader: _Reader) -> TensorInfo:
    name = reader.text()
    dimensions = reader.u32()
    if dimensions > _MAX_DIMENSIONS:
        reader.damaged(f"tensor '{_short(name)}' has {dimensions} dimensions")
    shape = tuple(reader.u64() for _ in range(dimensions))
    if max(shape, default=0) > _MAX_DIMENSION:
        reader.damaged(f"tensor '{_short(name)}' has the shape {shape}")
    type_number = reader.u32()
    if type_number not in TENSOR_TYPES:
        reader.fail(
            f"has a tensor '{_short(name)}' of the unknown type {type_number}; "
            "choose a GGUF of another quantisation"
        )
    type_name, block_elements, block_bytes = TENSOR_TYPES[type_number]
    row_elements = shape[0] if shape else 1
    if row_elements % block_elements:
        reader.damaged(f"tensor '{_short(name)}' of type {type_name} has the shape {shape}")
    return TensorInfo(name, shape, type_name, prod(shape) // block_elements * block_bytes)


def _check_whole(reader: _Reader, promised_bytes: int) -> None:
    if promised_bytes > reader.size_bytes:
        reader.fail(
            f"is truncated: {reader.size_bytes} bytes, but its header promises {promised_bytes}; "
            "download it again"
        )


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
